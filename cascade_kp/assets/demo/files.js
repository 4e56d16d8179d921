// The texts of result files, to the letter as the library writes them.

// A number with so many decimals, rounded half to even as Python does it; toFixed rounds the halves up.
export function decimals(value, digits) {
  const text = value.toFixed(digits);
  const halves = value * 2 ** (digits + 1);
  const tie = Number.isInteger(halves) && halves % 2 !== 0; // only so can the exact value lie half way
  if (!tie || Number(text.at(-1)) % 2 === 0) return text;
  // An odd last digit never carries: the even one below is a step away.
  return text.slice(0, -1) + (Number(text.at(-1)) - 1);
}

const rounded = (value) => {
  if (Array.isArray(value)) return value.map(rounded);
  return value === null ? null : Number(decimals(value, 3)) + 0; // which makes -0 a 0
};

// As Face.save_pts: pixel centres, counted from 1.
export function pts(face) {
  const rows = face.keypoints.map(([x, y]) =>
    x === null || y === null ? "nan nan" : `${decimals(x + 0.5, 4)} ${decimals(y + 0.5, 4)}`,
  );
  return ["version: 1", `n_points: ${rows.length}`, "{", ...rows, "}", ""].join("\n");
}

// As a line of `cascade-kp predict`.
export function json(name, faces) {
  const plain = faces.map((face) =>
    Object.fromEntries(["box", "score", "keypoints", "sigma", "coarse"].map((key) => [key, rounded(face[key])])),
  );
  return `${JSON.stringify({ image: name, faces: plain })}\n`;
}

export function save(name, blob) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
