// The back end without a server: the model's ONNX file runs in this browser, in a worker, by ONNX Runtime Web.

export async function connect(config) {
  const worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
  const waiting = new Map();
  let last = 0;
  const failed = (text) => {
    for (const { reject } of waiting.values()) reject(new Error(text));
    waiting.clear();
  };
  worker.addEventListener("error", (event) => failed(event.message || "the worker script cannot be loaded"));
  worker.addEventListener("message", ({ data }) => {
    const { resolve, reject, progress } = waiting.get(data.id) ?? {};
    if (!resolve) return;
    if (data.progress) {
      progress?.(data.progress);
      return;
    }
    waiting.delete(data.id);
    if (data.error) reject(new Error(data.error));
    else resolve(data.answer);
  });

  async function predict(picture, options, signal) {
    const model = config.models.find((one) => one.name === options.model);
    const began = performance.now();
    const bitmap = await createImageBitmap(picture.bitmap, { colorSpaceConversion: "none", premultiplyAlpha: "none" });
    signal?.throwIfAborted();
    const id = ++last;
    const answer = await new Promise((resolve, reject) => {
      waiting.set(id, { resolve, reject, progress: options.progress });
      const root = new URL(".", location.href).href;
      const { detector, runtime } = config;
      const message = { id, bitmap, model, detector, boxes: options.boxes, near: options.near, runtime, root };
      worker.postMessage(message, [bitmap]);
    });
    signal?.throwIfAborted();
    const coarse = options.stage === "coarse";
    const faces = answer.faces.map(({ coarse_sigma: sigma, judge, ...face }) =>
      coarse ? { ...face, keypoints: face.coarse, sigma, box: face.coarse_box } : face,
    );
    const inside = answer.timing.reduce((sum, row) => sum + row[1], 0);
    const rest = performance.now() - began - inside;
    const timing = [...answer.timing, ["between page and worker", Math.max(0, rest)]];
    return { width: answer.width, height: answer.height, stage: options.stage, scheme: model.scheme, faces, timing };
  }

  return { predict, preview: null, follows: true };
}
