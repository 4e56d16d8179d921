// Where the faces are: the library's single-shot detector (cascade_kp/runtime/detector.py), with its numbers.

const LONGEST = 640; // larger pictures are reduced to this side, px
const SECOND = 3; // a second look is at a picture so many times smaller
const SECOND_FROM = 320;
const CELL = 32; // sides are padded to multiples of it
const STRIDES = [8, 16, 32];
const SIDE = 4; // a face of so many cells is told as 0
const FURTHEST = 4;
const NUMBERS = 7; // a cell's: score, middle, sides, cosine and sine of the roll
const AGREE = 0.45;
const SAME_FACE = 0.4; // answers that overlap more are of one face,
const SAME_BOX = 0.35; // and so are the detector's boxes
const LEAST_SCORE = 0.5; // of stage one's, as Pipeline's min_score
const UPRIGHT = Math.PI / 6; // rolls below it count as none

export function tightBox(points) {
  const [xs, ys] = [0, 1].map((axis) => points.map((point) => point[axis]));
  return [Math.min(...xs), Math.min(...ys), Math.max(...xs), Math.max(...ys)];
}

const area = ([x0, y0, x1, y1]) => Math.max(0, x1 - x0) * Math.max(0, y1 - y0);

function overlap(a, b) {
  const both = area([Math.max(a[0], b[0]), Math.max(a[1], b[1]), Math.min(a[2], b[2]), Math.min(a[3], b[3])]);
  return both / (area(a) + area(b) - both || 1);
}

/* Where the detector sees faces: {box, roll}, left, top, right, bottom in px and radians; the largest first.

   image: {pixels, width, height}, RGB bytes. detect: runs the detector's network, from (3, height, width) floats to its
   numbers of all cells. least: the detector's own least score. within: where the model's points lie in a face's box, if
   they are not all of a face. */
export async function findBoxes(image, detect, { least, within }) {
  const picture = shrunk(image, Math.min(1, LONGEST / Math.max(image.width, image.height)));
  const looks = [picture];
  if (Math.max(picture.width, picture.height) > SECOND_FROM) looks.push(shrunk(picture, 1 / SECOND));
  const cells = [];
  for (const look of looks) {
    const { values, height, width } = padded(look);
    read(await detect(values, height, width), height, width, least, [image.width / look.width, image.height / look.height], cells);
  }
  return apart(joined(cells), SAME_BOX).map(({ box, roll }) => ({
    box: within ? part(box, roll, within) : box,
    roll: Math.abs(roll) < UPRIGHT ? 0 : roll, // stage one, which sees more of the face, knows better
  }));
}

// Of the cascade's answers about what the detector saw, those about faces: as Pipeline does, by one look and by all.
export function confirmed(answers, model) {
  const sure = answers.filter(({ judge: { score, points, sigma } }) => {
    const doubt = ordered(sigma)[(sigma.length - 1) >> 1] / rootArea(tightBox(points));
    return score >= LEAST_SCORE && (model.max_doubt === null || doubt <= model.max_doubt);
  });
  return distinct(sure, model);
}

// Of the cascade's answers about faces of the frame before, those about faces that are still there.
export function followed(answers, model) {
  return distinct(answers.filter((face) => face.score >= LEAST_SCORE), model);
}

// As Pipeline.keep: sure of where the points are, and one of each face; the largest first.
function distinct(faces, model) {
  const median = (values) => (values[(values.length - 1) >> 1] + values[values.length >> 1]) / 2;
  const sure = faces.filter(
    ({ sigma, box }) => model.max_doubt === null || median(ordered(sigma)) / rootArea(box) <= model.max_doubt,
  );
  return apart(sure, SAME_FACE);
}

const ordered = (values) => [...values].sort((a, b) => a - b);
const rootArea = (box) => Math.max(Math.sqrt(area(box)), 1e-6);

// The box of what lies at such a place of a face that is rolled, in roots of its box's area from its middle.
function part([x0, y0, x1, y1], roll, [left, top, right, bottom]) {
  const side = Math.sqrt((x1 - x0) * (y1 - y0));
  const [cos, sin] = [Math.cos(roll), Math.sin(roll)];
  const [x, y, halfW, halfH] = [left + right, top + bottom, right - left, bottom - top].map((sum) => (side * sum) / 2);
  const [middleX, middleY] = [(x0 + x1) / 2 + x * cos - y * sin, (y0 + y1) / 2 + x * sin + y * cos];
  const [w, h] = [Math.hypot(halfW * cos, halfH * sin), Math.hypot(halfH * cos, halfW * sin)];
  return [middleX - w, middleY - h, middleX + w, middleY + h];
}

// The picture reduced, each pixel the mean of what it covers, as OpenCV's INTER_AREA.
function shrunk(image, scale) {
  if (scale >= 1) return image;
  const [width, height] = [image.width, image.height].map((side) => Math.max(1, roundEven(side * scale)));
  const across = shares(image.width, width);
  const down = shares(image.height, height);
  const rows = new Float32Array(image.height * width * 3);
  for (let y = 0, to = 0; y < image.height; y++) {
    for (let x = 0; x < width; x++, to += 3) {
      const { first, weights } = across[x];
      let from = 3 * (y * image.width + first);
      for (const weight of weights) {
        rows[to] += weight * image.pixels[from++];
        rows[to + 1] += weight * image.pixels[from++];
        rows[to + 2] += weight * image.pixels[from++];
      }
    }
  }
  const pixels = new Uint8ClampedArray(height * width * 3); // rounds as it stores, halves to the even number
  const upwards = image.width === 2 * width && image.height === 2 * height; // OpenCV rounds halves up only here
  const line = new Float32Array(width * 3);
  for (let y = 0; y < height; y++) {
    line.fill(0);
    down[y].weights.forEach((weight, i) => {
      const from = 3 * width * (down[y].first + i);
      for (let x = 0; x < line.length; x++) line[x] += weight * rows[from + x];
    });
    pixels.set(upwards ? line.map((value) => Math.floor(value + 0.5)) : line, 3 * width * y);
  }
  return { pixels, width, height };
}

// As Python rounds: halves to the even number.
function roundEven(value) {
  const below = Math.floor(value);
  if (value - below !== 0.5) return Math.round(value);
  return below % 2 ? below + 1 : below;
}

// Of each new pixel along a side: the first old one that it covers, and the shares of these, which sum to 1.
function shares(before, after) {
  const step = before / after;
  return Array.from({ length: after }, (_, i) => {
    const [low, high] = [i * step, Math.min(before, (i + 1) * step)];
    const first = Math.floor(low);
    const weights = [];
    for (let j = first; j < high - 1e-9; j++) weights.push((Math.min(j + 1, high) - Math.max(j, low)) / (high - low));
    return { first, weights };
  });
}

// (3, height, width) floats; its last column and row are repeated up to whole cells.
function padded({ pixels, width: w, height: h }) {
  const [width, height] = [w, h].map((side) => Math.ceil(side / CELL) * CELL);
  const values = new Float32Array(3 * height * width);
  for (let channel = 0, to = 0; channel < 3; channel++) {
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        values[to++] = pixels[3 * (Math.min(y, h - 1) * w + Math.min(x, w - 1)) + channel];
      }
    }
  }
  return { values, height, width };
}

// What the numbers say: onto cells are put {box, score, heading} of all that see a face, in px of the picture; a heading
// is the cosine and the sine of the roll.
function read(numbers, height, width, least, [zoomX, zoomY], cells) {
  let at = 0;
  for (const stride of STRIDES) {
    for (let y = 0; y < height / stride; y++) {
      for (let x = 0; x < width / stride; x++, at += NUMBERS) {
        const score = 1 / (1 + Math.exp(-numbers[at]));
        if (score < least) continue;
        const [middleX, middleY] = [x + 0.5 + numbers[at + 1], y + 0.5 + numbers[at + 2]].map((value) => value * stride);
        const [halfW, halfH] = [numbers[at + 3], numbers[at + 4]].map(
          (value) => 0.5 * SIDE * stride * Math.exp(Math.max(-FURTHEST, Math.min(FURTHEST, value))),
        );
        const box = [middleX - halfW, middleY - halfH, middleX + halfW, middleY + halfH];
        const heading = [numbers[at + 5], numbers[at + 6]];
        cells.push({ score, heading, box: box.map((value, i) => value * (i % 2 ? zoomY : zoomX)) });
      }
    }
  }
}

// Cells that tell of one face, averaged by the squares of their scores.
function joined(cells) {
  const left = [...cells].sort((a, b) => b.score - a.score);
  const found = [];
  while (left.length) {
    const [best] = left;
    const members = left.filter((cell) => cell === best || overlap(cell.box, best.box) >= AGREE);
    const sum = (value) => members.reduce((total, cell) => total + cell.score ** 2 * value(cell), 0);
    const total = sum(() => 1);
    const box = best.box.map((_, i) => sum((cell) => cell.box[i]) / total);
    found.push({ box, roll: Math.atan2(sum((cell) => cell.heading[1]), sum((cell) => cell.heading[0])), score: best.score });
    left.splice(0, left.length, ...left.filter((cell) => !members.includes(cell)));
  }
  return found;
}

// One of each face, the likeliest; the largest first.
function apart(faces, most) {
  const kept = [];
  for (const face of [...faces].sort((a, b) => b.score - a.score)) {
    if (kept.every((other) => overlap(other.box, face.box) <= most)) kept.push(face);
  }
  return kept.sort((a, b) => area(b.box) - area(a.box));
}
