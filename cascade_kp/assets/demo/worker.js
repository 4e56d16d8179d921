// Runs a model's ONNX file; a worker, so that the page stays awake meanwhile. See browser.js.
import { confirmed, findBoxes, followed, tightBox } from "./find.js";

let runtime = null;
let loaded = { file: null, session: null };
let detector = null;

async function ortAt(folder, root) {
  if (runtime) return runtime;
  const base = new URL(folder, root).href;
  try {
    runtime = await import(`${base}ort.wasm.min.mjs`);
  } catch (error) {
    throw new Error(`ONNX Runtime Web cannot be loaded from ${base}: ${error.message}`);
  }
  runtime.env.wasm.wasmPaths = base;
  // Threads need memory that pages share only where their server says so (COOP and COEP headers).
  runtime.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency || 1) : 1;
  return runtime;
}

async function fetched(url, expected, say) {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`the model cannot be loaded: ${url} gave ${response.status}`);
  const parts = [];
  let done = 0;
  for (const reader = response.body.getReader(); ; ) {
    const { value, done: ended } = await reader.read();
    if (ended) break;
    parts.push(value);
    done += value.length;
    say(`loading the model: ${(done / 1e6).toFixed(1)} of ${(expected / 1e6).toFixed(1)} MB`);
  }
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}

async function detectorOf(given, folder, root, say) {
  if (detector) return detector;
  const ort = await ortAt(folder, root);
  const session = await ort.InferenceSession.create(await fetched(new URL(given.file, root).href, given.bytes, say), {
    executionProviders: ["wasm"],
  });
  detector = async (values, height, width) => {
    const said = await session.run({ image: new ort.Tensor("float32", values, [1, 3, height, width]) });
    return said.numbers.data;
  };
  return detector;
}

async function sessionOf(model, folder, root, say) {
  if (loaded.file === model.file) return loaded.session;
  const ort = await ortAt(folder, root);
  const bytes = await fetched(new URL(model.file, root).href, model.bytes, say);
  say("preparing the model");
  const session = await ort.InferenceSession.create(bytes, { executionProviders: ["wasm"] });
  await loaded.session?.release();
  loaded = { file: model.file, session };
  return session;
}

// (height, width, 3) bytes without the alpha of the fourth.
function rgb(bitmap) {
  const { width, height } = bitmap;
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  const four = context.getImageData(0, 0, width, height).data;
  const three = new Uint8Array(width * height * 3);
  for (let from = 0, to = 0; from < four.length; from += 4) {
    three[to++] = four[from];
    three[to++] = four[from + 1];
    three[to++] = four[from + 2];
  }
  return three;
}

const pairs = (values, start, count) =>
  Array.from({ length: count }, (_, i) => [values[start + 2 * i], values[start + 2 * i + 1]]);

async function answer({ bitmap, model, detector: given, boxes, near, runtime: folder, root }, say) {
  const { width, height } = bitmap;
  const timing = [];
  const timed = async (name, work) => {
    const began = performance.now();
    const result = await work();
    timing.push([name, performance.now() - began]);
    return result;
  };
  const fresh = loaded.file !== model.file;
  const load = () => sessionOf(model, folder, root, say);
  const session = fresh ? await timed("loading the model, once", load) : await load();
  const pixels = await timed("pixels", () => rgb(bitmap));
  bitmap.close();
  const ort = await ortAt(folder, root);
  const image = new ort.Tensor("uint8", pixels, [height, width, 3]);

  // What the cascade says of some boxes, of faces with such rolls in radians: one answer for each.
  async function ask(rows, rolls = rows.map(() => 0)) {
    if (!rows.length) return [];
    const given = new ort.Tensor("float32", Float32Array.from(rows.flat()), [rows.length, 4]);
    const angles = new ort.Tensor("float32", Float32Array.from(rolls), [rows.length]);
    const said = await session.run({ image, boxes: given, angles });
    const count = model.scheme.keypoints.length;
    return rows.map((_, i) => {
      const points = (one) => pairs(one.data, 2 * count * i, count);
      const numbers = (one) => Array.from(one.data.subarray(count * i, count * (i + 1)));
      const [keypoints, coarse] = [said.keypoints, said.coarse].map(points);
      const judge = {
        score: said.judge_score.data[i],
        points: points(said.judge_points),
        sigma: numbers(said.judge_sigma),
      };
      return {
        keypoints,
        coarse,
        judge,
        sigma: numbers(said.sigma),
        coarse_sigma: numbers(said.coarse_sigma),
        score: said.score.data[i],
        box: tightBox(keypoints),
        coarse_box: tightBox(coarse),
      };
    });
  }

  // The faces that the detector sees or, in a film, those of the frame before while there is one.
  async function seen() {
    if (near?.length) {
      const faces = followed(await timed("the cascade", () => ask(near)), model);
      if (faces.length) return faces;
    }
    const detect = await detectorOf(given, folder, root, say);
    const options = { least: given.min_score, within: model.within_face };
    const found = await timed("finding the faces", () => findBoxes({ pixels, width, height }, detect, options));
    const [places, rolls] = ["box", "roll"].map((key) => found.map((one) => one[key]));
    return confirmed(await timed("the cascade", () => ask(places, rolls)), model);
  }

  say("looking");
  const rows = model.whole_picture ? [[0, 0, width, height]] : boxes;
  if (!rows) return { width, height, faces: await seen(), timing };
  const faces = await timed("the cascade", () => ask(rows));
  const broken = faces.findIndex((face) => !face.keypoints.flat().every(Number.isFinite));
  if (broken >= 0) {
    throw new Error(`boxes: expected one with an area that overlaps the picture, got ${rows[broken].join(", ")}`);
  }
  return { width, height, faces, timing };
}

let turn = Promise.resolve(); // one picture after another: a session runs one at a time
let newest = 0; // what was asked before it nobody waits for
self.addEventListener("message", ({ data }) => {
  const say = (progress) => self.postMessage({ id: data.id, progress });
  newest = data.id;
  turn = turn
    .then(() => {
      if (data.id === newest) return answer(data, say);
      data.bitmap.close();
      throw new Error("another picture was asked for meanwhile");
    })
    .then(
      (result) => self.postMessage({ id: data.id, answer: result }),
      (error) => self.postMessage({ id: data.id, error: error?.message ?? String(error) }),
    );
});
