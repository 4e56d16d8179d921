// Faces drawn on a canvas. Coordinates are those of the library: (0, 0) is the corner of the top-left pixel.

// Okabe and Ito's colours, the ones that stand out from skin first; as cascade_kp.draw has them.
const COLOURS = ["#56b4e9", "#f0e442", "#009e73", "#cc79a7", "#e69f00", "#0072b2", "#d55e00"];
export const OUTSIDE = "#ffffff";
const INK = "#101418";

export const colour = (number) => (number < 0 ? OUTSIDE : COLOURS[number % COLOURS.length]);

// (K,) number of each point's region, -1 outside all.
export function regionNumbers(scheme) {
  const answer = scheme.keypoints.map(() => -1);
  Object.values(scheme.regions).forEach((members, number) => {
    for (const member of members) answer[member] = number;
  });
  return answer;
}

const known = (point) => point[0] !== null && point[1] !== null;
const middle = (values) => values.sort((a, b) => a - b)[values.length >> 1] ?? 0;

/* Draw a result over its picture.

   context: of a canvas; scale: its pixels per pixel of the picture. layers: which of points, coarse, sigma, edges,
   areas, box are shown. hidden: numbers of regions that are not. */
export function draw(context, result, layers, hidden, scale) {
  const { scheme } = result;
  const numbers = regionNumbers(scheme);
  const shown = (i) => !hidden.has(numbers[i]);
  context.save();
  context.lineCap = context.lineJoin = "round";
  for (const [place, face] of result.faces.entries()) {
    const at = ([x, y]) => [x * scale, y * scale];
    const side = scale * Math.max(face.box[2] - face.box[0], face.box[3] - face.box[1]);
    const radius = Math.max(1.2, side / 85);
    const stroke = Math.max(0.9, side / 300);
    const line = (points, style, width, alpha = 1) => {
      context.globalAlpha = alpha;
      context.strokeStyle = style;
      context.lineWidth = width;
      context.beginPath();
      points.forEach((point, i) => (i ? context.lineTo(...at(point)) : context.moveTo(...at(point))));
      context.stroke();
    };
    const ring = (point, size, style, width, alpha = 1) => {
      context.globalAlpha = alpha;
      context.strokeStyle = style;
      context.lineWidth = width;
      context.beginPath();
      context.arc(...at(point), size, 0, 2 * Math.PI);
      context.stroke();
    };
    const seen = face.keypoints.map((point, i) => known(point) && shown(i));
    if (layers.box) {
      const [x0, y0, x1, y1] = face.box;
      line([[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]], OUTSIDE, stroke, 0.8);
    }
    if (layers.areas) {
      Object.values(scheme.regions).forEach((members, number) => {
        const points = members.map((i) => face.keypoints[i]).filter(known);
        if (hidden.has(number) || !points.length) return;
        const [xs, ys] = [0, 1].map((axis) => points.map((point) => point[axis]));
        const room = (2.5 * radius) / scale;
        const [x0, y0, x1, y1] = [Math.min(...xs) - room, Math.min(...ys) - room, Math.max(...xs) + room, Math.max(...ys) + room];
        line([[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]], colour(number), 1.3 * stroke, 0.9);
      });
    }
    if (layers.edges) {
      for (const [i, j] of scheme.edges) {
        if (!seen[i] || !seen[j]) continue;
        const style = numbers[i] === numbers[j] ? colour(numbers[i]) : OUTSIDE;
        line([face.keypoints[i], face.keypoints[j]], style, stroke, 0.7);
      }
    }
    face.keypoints.forEach((point, i) => {
      const style = colour(numbers[i]);
      if (!seen[i]) return;
      if (layers.sigma && face.sigma[i] !== null) ring(point, face.sigma[i] * scale, style, stroke, 0.9);
      if (layers.coarse && known(face.coarse[i])) {
        if (layers.points) line([face.coarse[i], point], style, 0.7 * stroke, 0.7);
        ring(face.coarse[i], 0.9 * radius, INK, 0.95 * radius, 0.5);
        ring(face.coarse[i], 0.9 * radius, style, 0.55 * radius);
      }
      if (layers.points) {
        context.globalAlpha = 1;
        context.fillStyle = style;
        context.beginPath();
        context.arc(...at(point), radius, 0, 2 * Math.PI);
        context.fill();
        if (radius >= 2) ring(point, radius, INK, 0.3 * radius, 0.7);
      }
    });
    if (layers.box) {
      const size = Math.max(11 * Math.min(1, side / 80), Math.min(side / 16, 22 * Math.max(1, side / 900)));
      const text = result.faces.length > 1 ? `${place + 1}: ${face.score.toFixed(2)}` : face.score.toFixed(2);
      context.font = `${size}px system-ui, sans-serif`;
      context.globalAlpha = 0.65;
      context.fillStyle = INK;
      const width = context.measureText(text).width + 0.6 * size;
      const [x, y] = at(face.box);
      const top = y > 1.3 * size ? y - 1.3 * size : y;
      context.fillRect(x, top, width, 1.25 * size);
      context.globalAlpha = 1;
      context.fillStyle = OUTSIDE;
      context.fillText(text, x + 0.3 * size, top + 0.97 * size);
    }
  }
  context.restore();
}

// The nearest point to (x, y) px of the picture within reach: {face, index}, or null.
export function nearest(result, hidden, x, y, reach) {
  const numbers = regionNumbers(result.scheme);
  let best = null;
  let far = reach;
  for (const [number, face] of result.faces.entries()) {
    face.keypoints.forEach((point, index) => {
      if (!known(point) || hidden.has(numbers[index])) return;
      const distance = Math.hypot(point[0] - x, point[1] - y);
      if (distance < far) [far, best] = [distance, { face: number, index }];
    });
  }
  return best;
}

export const medianSigma = (face) => middle(face.sigma.filter((value) => value !== null));
