// Runs a model's ONNX file; a worker, so that the page stays awake meanwhile. See browser.js.
import { findFaces, tightBox } from "./find.js";

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

  // The faces in some boxes, one for each.
  async function ask(rows) {
    const given = new ort.Tensor("float32", Float32Array.from(rows.flat()), [rows.length, 4]);
    const said = await session.run({ image, boxes: given });
    const count = model.scheme.keypoints.length;
    return rows.map((_, i) => {
      const [keypoints, coarse] = [said.keypoints, said.coarse].map((one) => pairs(one.data, 2 * count * i, count));
      const [sigma, coarseSigma] = [said.sigma, said.coarse_sigma].map((one) =>
        Array.from(one.data.subarray(count * i, count * (i + 1))),
      );
      const [box, coarseBox] = [keypoints, coarse].map(tightBox);
      return { keypoints, sigma, coarse, coarse_sigma: coarseSigma, score: said.score.data[i], box, coarse_box: coarseBox };
    });
  }

  say("looking");
  let rows = boxes;
  if (model.whole_picture) rows = [[0, 0, width, height]];
  if (!rows) {
    const detect = await detectorOf(given, folder, root, say);
    const options = { model, near, least: given.min_score };
    rows = await timed("finding the faces", () => findFaces({ pixels, width, height }, detect, ask, options));
  }
  const faces = rows.length ? await timed("the cascade", () => ask(rows)) : [];
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
