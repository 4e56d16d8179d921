// Where the faces are, without a detector. This one function is the seam for one that runs in the browser.

const STEPS = [1, 0.6, 0.36]; // sides of the squares that are guessed, in shorter sides of the picture
const OVERLAP = 0.5;
const MARGIN = 0.12; // of a guess, since a face's box is tight round its points
const TRIES = 3; // guesses of one size that are followed, the likeliest first
const MOST_LOOKS = 4; // until a box comes to rest
const AT_REST = 0.85; // overlap of two boxes of one face, one look after the other
const SAME_FACE = 0.4;
const LEAST_SCORE = 0.5; // as Pipeline's min_score
// Of a guess more is asked, since many guesses bring many false alarms: the score that Pipeline asks of a further search,
// and half of the doubt that the model bears. What looks like a face but is none has more.
const SURE_SCORE = 0.9;
const SURE_DOUBT = 0.5;

export function tightBox(points) {
  const [xs, ys] = [0, 1].map((axis) => points.map((point) => point[axis]));
  return [Math.min(...xs), Math.min(...ys), Math.max(...xs), Math.max(...ys)];
}

const area = ([x0, y0, x1, y1]) => Math.max(0, x1 - x0) * Math.max(0, y1 - y0);

function overlap(a, b) {
  const both = area([Math.max(a[0], b[0]), Math.max(a[1], b[1]), Math.min(a[2], b[2]), Math.min(a[3], b[3])]);
  return both / (area(a) + area(b) - both || 1);
}

/* Find the faces of a picture.

   image: {pixels, width, height}, RGB bytes. ask: takes boxes (rows of left, top, right, bottom px) and gives the
   cascade's face for each. model: with max_doubt, and near, the boxes of the frame before where there was one.
   Gives boxes, tight round each face's points.

   The cascade judges its own answers: squares of some sizes are guessed, and where it says that there is a face, its
   points give the next box, until that comes to rest. Of several faces the largest are found, those of one size. */
export async function findFaces(image, ask, model) {
  if (model.near?.length) {
    const still = (await ask(model.near.filter((box) => usable(box, image)))).filter((face) => isFace(face, model, LEAST_SCORE, 1));
    if (still.length) return apart(still).map((face) => face.box);
  }
  for (const step of STEPS) {
    const guessed = await ask(guesses(image.width, image.height, step));
    const likely = guessed.filter((face) => Number.isFinite(face.score)).sort((a, b) => b.score - a.score);
    const found = [];
    for (const guess of likely.slice(0, TRIES)) {
      const face = await settled(guess, image, ask);
      if (face && isFace(face, model, SURE_SCORE, SURE_DOUBT)) found.push(face);
    }
    if (found.length) return apart(found).map((face) => face.box);
  }
  return [];
}

function guesses(width, height, step) {
  const side = step * Math.min(width, height);
  const rows = [];
  const count = (length) => Math.ceil((length - side) / (OVERLAP * side) - 1e-6) + 1;
  const [across, down] = [count(width), count(height)];
  for (let j = 0; j < down; j++) {
    for (let i = 0; i < across; i++) {
      const x = across > 1 ? (i * (width - side)) / (across - 1) : 0;
      const y = down > 1 ? (j * (height - side)) / (down - 1) : 0;
      const margin = MARGIN * side;
      rows.push([x + margin, y + margin, x + side - margin, y + side - margin]);
    }
  }
  return rows;
}

// The same face, asked about again in the box of its own points; null where that does not come to rest.
async function settled(face, image, ask) {
  for (let look = 0; look < MOST_LOOKS; look++) {
    if (!usable(face.box, image)) return null;
    const [next] = await ask([face.box]);
    const rest = overlap(next.box, face.box) > AT_REST;
    face = next;
    if (rest) return face;
  }
  return null;
}

function usable([x0, y0, x1, y1], { width, height }) {
  return x1 - x0 > 2 && y1 - y0 > 2 && x0 < width && y0 < height && x1 > 0 && y1 > 0;
}

// As Pipeline.keep: sure that it is a face, and sure enough of where its points are.
function isFace(face, model, least, share) {
  const sigmas = [...face.sigma].sort((a, b) => a - b);
  const doubt = sigmas[sigmas.length >> 1] / Math.sqrt(Math.max(area(face.box), 1e-6));
  return face.score >= least && (model.max_doubt === null || doubt <= share * model.max_doubt);
}

// One of each face, the likeliest; the largest first.
function apart(faces) {
  const kept = [];
  for (const face of [...faces].sort((a, b) => b.score - a.score)) {
    if (kept.every((other) => overlap(other.box, face.box) < SAME_FACE)) kept.push(face);
  }
  return kept.sort((a, b) => area(b.box) - area(a.box));
}
