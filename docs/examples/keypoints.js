// Keypoints of faces in JavaScript, with a file that `cascade-kp export ibug68 ibug68.onnx` wrote:
//
//     npm install onnxruntime-node
//     node keypoints.js ibug68.onnx photo.ppm 180 88 272 179
//
// Each four numbers are a face's box: x0 y0 x1 y1. Prints one line of JSON for each. In a browser the same code runs
// with onnxruntime-web, on the bytes of a canvas without every fourth one (alpha).
"use strict";
const { readFileSync } = require("node:fs");
const ort = require("onnxruntime-node");

async function main([model, photo, ...numbers]) {
  // A binary PPM is RGB bytes behind a short header; for other files, a decoder such as sharp gives the same bytes.
  const file = readFileSync(photo);
  const header = /^P6\s+(?:#[^\n]*\n\s*)*(\d+)\s+(\d+)\s+255\s/.exec(file.toString("latin1", 0, 512));
  if (!header) throw new Error(`${photo}: expected a binary PPM of 8 bits`);
  const [width, height] = header.slice(1, 3).map(Number);
  const pixels = Uint8Array.from(file.subarray(header[0].length));

  const session = await ort.InferenceSession.create(model);
  const { keypoints, sigma } = await session.run({
    image: new ort.Tensor("uint8", pixels, [height, width, 3]),
    boxes: new ort.Tensor("float32", Float32Array.from(numbers, Number), [numbers.length / 4, 4]),
  });
  const [faces, count] = sigma.dims;
  for (let face = 0; face < faces; face++) {
    const points = Array.from({ length: count }, (_, i) => {
      const at = face * count + i;
      return { x: keypoints.data[2 * at], y: keypoints.data[2 * at + 1], sigma: sigma.data[at] };
    });
    console.log(JSON.stringify(points));
  }
}

main(process.argv.slice(2));
