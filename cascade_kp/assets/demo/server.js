// The back end of `cascade-kp demo`: pictures go to the program that served this page, and nowhere else.

export async function connect(config) {
  async function ask(path, blob, signal) {
    if (blob.size > config.limit) {
      const [got, most] = [blob.size, config.limit].map((bytes) => (bytes / 1e6).toFixed(1));
      throw new Error(`expected a picture of at most ${most} MB, got ${got} MB; shrink it first`);
    }
    let response;
    try {
      response = await fetch(path, { method: "POST", body: blob, signal });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Error("no answer: is cascade-kp demo still running?");
    }
    if (response.ok) return response;
    const text = await response.text();
    let said = text;
    try {
      said = JSON.parse(text).error;
    } catch {
      // It is not ours, such as a proxy's page.
    }
    throw new Error(said || `the server said ${response.status}`);
  }

  /* Find the faces of a picture.

     picture: {blob, name}. options: model, stage, boxes (rows of left, top, right, bottom px, or null to search).
     Gives {width, height, scheme, stage, faces, timing}; timing is [name, ms] rows. */
  async function predict(picture, options, signal) {
    const query = new URLSearchParams({ model: options.model, stage: options.stage, name: picture.name });
    if (options.boxes) query.set("boxes", options.boxes.map((box) => box.join(",")).join(";"));
    const began = performance.now();
    const answer = await (await ask(`predict?${query}`, picture.blob, signal)).json();
    const whole = performance.now() - began;
    const inside = answer.timing.reduce((sum, row) => sum + row[1], 0);
    answer.timing.push(["there and back", Math.max(0, whole - inside)]);
    return answer;
  }

  // What the library sees of a picture that the browser cannot show.
  const preview = async (picture) => (await ask(`picture?${new URLSearchParams({ name: picture.name })}`, picture.blob)).blob();

  return { predict, preview };
}
