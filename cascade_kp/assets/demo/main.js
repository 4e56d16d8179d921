// The page: what is chosen, what is shown. It asks a back end (server.js or browser.js) for the numbers.
import { colour, draw, medianSigma, nearest, OUTSIDE, regionNumbers } from "./draw.js";
import { json, pts, save } from "./files.js";

const config = JSON.parse(document.getElementById("config").textContent);
const $ = (id) => document.getElementById(id);
const canvas = $("canvas");
const MOST_CANVAS_PX = 16e6; // on the screen; what is saved is as large as the picture

let backend = null;
let picture = null; // {name, blob, bitmap}; of the webcam without blob until it is asked for
let result = null; // what the back end said of it
let boxes = null; // those that the user gave for it, or null
let camera = null;
let dragged = null; // the box under the hand
let closer = null; // number of the face that fills the frame, or null for the whole picture
let hidden = new Set();
let current = { abort: () => {} };

// ------------------------------------------------------------------------------------------------ words

function h(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes ?? {})) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

function say(text) {
  $("status").textContent = text;
}

function complain(error) {
  $("message").textContent = error instanceof Error ? error.message : String(error);
  $("message").hidden = false;
}

function calm() {
  $("message").hidden = true;
}

function busy(working) {
  if (working) document.body.setAttribute("aria-busy", "true");
  else document.body.removeAttribute("aria-busy");
}

// ------------------------------------------------------------------------------------------------ pictures

const UNCHANGED = { colorSpaceConversion: "none", premultiplyAlpha: "none", imageOrientation: "from-image" };

// A picture's pixels; where this browser cannot decode it, as the back end does, which may also say what is wrong.
async function decoded(next) {
  try {
    return await createImageBitmap(next.blob, UNCHANGED);
  } catch {
    if (backend.preview) return createImageBitmap(await backend.preview(next), UNCHANGED);
    throw new Error(`${next.name}: expected a picture that this browser can show, got ${next.blob.type || "another file"}`);
  }
}

async function open(blob, name) {
  stopCamera();
  current.abort();
  const own = (current = new AbortController()); // one that is opened later wins, however long this one takes
  calm();
  busy(true);
  const next = { name, blob, bitmap: null };
  try {
    next.bitmap = await decoded(next);
  } catch (error) {
    if (own.signal.aborted) return;
    clear();
    complain(error);
    return;
  }
  if (own.signal.aborted) return;
  picture?.bitmap.close();
  [picture, result, boxes, closer] = [next, null, null, null];
  $("frame").classList.remove("empty");
  $("boxes").hidden = canvas.hidden = false;
  paint();
  await look();
}

function clear() {
  picture?.bitmap.close();
  [picture, result, boxes, closer] = [null, null, null, null];
  $("frame").classList.add("empty");
  for (const id of ["boxes", "canvas", "regions", "faces", "timing"]) $(id).hidden = true;
  say("Open, drop or paste a picture.");
  busy(false);
}

async function look() {
  if (!picture) return;
  current.abort();
  const own = (current = new AbortController());
  calm();
  say("Looking …");
  busy(true);
  try {
    const answer = await backend.predict(picture, { ...choices(), boxes, progress: say }, own.signal);
    if (own.signal.aborted) return;
    if (backend.preview && (answer.width !== picture.bitmap.width || answer.height !== picture.bitmap.height)) {
      // The browser turns another way: what the library saw is shown.
      const seen = await createImageBitmap(await backend.preview(picture), UNCHANGED);
      if (own.signal.aborted) return;
      picture.bitmap.close();
      picture.bitmap = seen;
    }
    result = answer;
    report();
  } catch (error) {
    if (own.signal.aborted) return;
    result = null;
    report();
    say("");
    complain(error);
  } finally {
    if (!own.signal.aborted) busy(false);
  }
}

const choices = () => ({ model: $("model").value, stage: $("stage").value });

// ------------------------------------------------------------------------------------------------ camera

async function startCamera() {
  calm();
  if (!navigator.mediaDevices?.getUserMedia) {
    complain("the webcam: browsers give it to pages of localhost or https only");
    return;
  }
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { width: { ideal: 640 }, facingMode: "user" } });
  } catch (error) {
    complain(`the webcam: ${error.message || error.name}`);
    return;
  }
  current.abort();
  busy(false);
  const own = (camera = { stream });
  $("webcam").setAttribute("aria-pressed", "true");
  $("webcam").textContent = "Stop";
  const video = h("video", { playsinline: "" });
  video.muted = true;
  video.srcObject = stream;
  try {
    await video.play();
    picture?.bitmap.close();
    [picture, result, boxes, closer] = [null, null, null, null];
    $("frame").classList.remove("empty");
    canvas.hidden = false;
    $("boxes").hidden = true;
    const times = [performance.now()]; // of the last frames
    while (camera === own) {
      const next = await frame(video);
      const near = result?.faces.map((face) => face.box);
      // One frame is under way at a time: the next one is taken when its answer is here.
      const answer = await backend.predict(next, { ...choices(), boxes: null, near, progress: result ? null : say });
      if (camera !== own) {
        next.bitmap.close();
        break;
      }
      picture?.bitmap.close();
      [picture, result] = [next, answer];
      times.push(performance.now());
      if (times.length > 9) times.shift();
      const pace = (times.at(-1) - times[0]) / (times.length - 1);
      report(`, ${(1000 / pace).toFixed(1)} frames a second`);
      await new Promise((resolve) => requestAnimationFrame(resolve));
    }
  } catch (error) {
    if (camera === own) complain(error);
  }
  if (camera === own) stopCamera();
}

async function frame(video) {
  const bitmap = await createImageBitmap(video);
  const shot = new OffscreenCanvas(bitmap.width, bitmap.height);
  shot.getContext("2d").drawImage(bitmap, 0, 0);
  // Nearly without loss, and a tenth of the time of a PNG. The browser's own back end takes the pixels.
  const blob = backend.follows ? null : await shot.convertToBlob({ type: "image/jpeg", quality: 0.95 });
  return { name: "webcam.png", blob, bitmap };
}

function stopCamera() {
  if (!camera) return;
  for (const track of camera.stream.getTracks()) track.stop();
  camera = null;
  $("webcam").setAttribute("aria-pressed", "false");
  $("webcam").textContent = "Webcam";
  $("boxes").hidden = !picture;
}

// ------------------------------------------------------------------------------------------------ the picture with its points

function layers() {
  return Object.fromEntries([...$("layers").querySelectorAll("input")].map((box) => [box.name, box.checked]));
}

// The part of the picture that is shown: left, top, width, height, px.
function view() {
  const { width, height } = picture.bitmap;
  const box = result?.faces[closer]?.box;
  if (!box) return [0, 0, width, height];
  const room = 0.35 * Math.max(box[2] - box[0], box[3] - box[1]);
  const [x0, y0] = [box[0], box[1]].map((value) => Math.max(0, Math.floor(value - room)));
  const [x1, y1] = [Math.min(width, Math.ceil(box[2] + room)), Math.min(height, Math.ceil(box[3] + room))];
  return x1 > x0 && y1 > y0 ? [x0, y0, x1 - x0, y1 - y0] : [0, 0, width, height];
}

function paint() {
  if (!picture) return;
  const [left, top, width, height] = view();
  // The frame keeps its width, whatever the picture's: a canvas that set it would grow with itself.
  const shown = Math.min($("frame").clientWidth / width, Math.max(320, 0.82 * window.innerHeight) / height, 16);
  const finest = Math.sqrt(MOST_CANVAS_PX / (width * height));
  const scale = Math.min(shown * (window.devicePixelRatio || 1), finest);
  canvas.width = Math.max(1, Math.round(width * scale));
  canvas.height = Math.max(1, Math.round(height * scale));
  canvas.style.width = `${Math.round(width * shown)}px`;
  canvas.style.height = "auto";
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(picture.bitmap, left, top, width, height, 0, 0, canvas.width, canvas.height);
  context.translate(-left * scale, -top * scale);
  if (result) draw(context, result, layers(), hidden, scale);
  if (dragged) {
    const [x0, y0, x1, y1] = dragged.map((value) => value * scale);
    context.strokeStyle = OUTSIDE;
    context.lineWidth = 2;
    context.setLineDash([6, 4]);
    context.strokeRect(x0, y0, x1 - x0, y1 - y0);
  }
}

function report(suffix = "") {
  const faces = result?.faces ?? [];
  if (closer !== null && !faces[closer]) closer = null;
  const count = result?.scheme.keypoints.length;
  const plural = faces.length > 1 ? "s" : "";
  const found = faces.length ? `${faces.length} face${plural}, ${count} keypoints${plural && " each"}` : "No face found";
  const hint = faces.length || !result || camera ? "" : ": drag over one in the picture";
  const size = result ? ` (${result.width} x ${result.height} px)` : "";
  if (result) say(`${found}${hint}${suffix || size}`);
  canvas.setAttribute("aria-label", `${picture?.name ?? "No picture"}: ${found}`);
  const coarse = $("layers").querySelector("[name=coarse]");
  coarse.disabled = result?.stage === "coarse";
  chips();
  table();
  times();
  paint();
}

let chipsOf = null;
function chips() {
  const names = result ? Object.keys(result.scheme.regions) : [];
  $("regions").hidden = !result || !names.length;
  const scheme = JSON.stringify(result?.scheme);
  if (!result || chipsOf === scheme) return;
  chipsOf = scheme;
  hidden = new Set();
  const rest = regionNumbers(result.scheme).includes(-1) ? [["the rest", -1]] : [];
  const rows = [...names.map((name, number) => [name.replaceAll("_", " "), number]), ...rest];
  $("regions").querySelector("div").replaceChildren(
    ...rows.map(([name, number]) => {
      const box = h("input", { type: "checkbox", checked: "" });
      box.addEventListener("change", () => {
        if (box.checked) hidden.delete(number);
        else hidden.add(number);
        paint();
      });
      const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
      const dot = document.createElementNS("http://www.w3.org/2000/svg", "circle");
      for (const [key, value] of [["cx", 7], ["cy", 7], ["r", 5.5], ["fill", colour(number)]]) dot.setAttribute(key, value);
      svg.setAttribute("class", "swatch");
      svg.setAttribute("viewBox", "0 0 14 14");
      svg.append(dot);
      return h("label", null, box, svg, name);
    }),
  );
}

function table() {
  const faces = result?.faces ?? [];
  $("faces").hidden = !faces.length;
  $("faces").querySelector("tbody").replaceChildren(
    ...faces.map((face, i) => {
      const button = h("button", { type: "button", title: "Save this face's points as a 300-W .pts file" }, ".pts");
      button.addEventListener("click", () => {
        const name = faces.length > 1 ? `${stem()}_${i + 1}.pts` : `${stem()}.pts`;
        save(name, new Blob([pts(face)], { type: "text/plain" }));
      });
      const zoom = h("button", { type: "button", "aria-pressed": closer === i, title: "Look closer, or at the whole picture" });
      zoom.append(`${i + 1}: zoom`);
      zoom.addEventListener("click", () => {
        closer = closer === i ? null : i;
        table();
        paint();
      });
      const [x0, y0, x1, y1] = face.box;
      const cells = [face.score.toFixed(2), `${Math.round(x1 - x0)} x ${Math.round(y1 - y0)}`, medianSigma(face).toFixed(2)];
      return h("tr", null, h("td", null, zoom), ...cells.map((cell) => h("td", null, cell)), h("td", null, button));
    }),
  );
}

function times() {
  const rows = result?.timing ?? [];
  $("timing").hidden = !rows.length;
  const most = Math.max(...rows.map((row) => row[1]), 1e-9);
  const all = rows.reduce((sum, row) => sum + row[1], 0);
  $("timing").querySelector("tbody").replaceChildren(
    ...[...rows, ["together", all]].map(([name, ms]) => {
      const bar = name === "together" ? "" : h("progress", { max: most, value: ms, "aria-label": name });
      return h("tr", null, h("td", null, name), h("td", null, ms.toFixed(ms < 10 ? 1 : 0)), h("td", null, bar));
    }),
  );
}

// ------------------------------------------------------------------------------------------------ files

const stem = () => picture.name.replace(/\.[^.]*$/, "") || "picture";

$("json").addEventListener("click", () => {
  save(`${stem()}.json`, new Blob([json(picture.name, result.faces)], { type: "application/json" }));
});

$("drawing").addEventListener("click", async () => {
  const { bitmap } = picture;
  const full = new OffscreenCanvas(bitmap.width, bitmap.height);
  const context = full.getContext("2d");
  context.drawImage(bitmap, 0, 0);
  draw(context, result, layers(), hidden, 1);
  const name = `${stem()}-keypoints.png`;
  try {
    save(name, await full.convertToBlob({ type: "image/png" }));
  } catch (error) {
    complain(`${name}: ${error.message}`);
  }
});

// ------------------------------------------------------------------------------------------------ hands

$("sources").addEventListener("submit", (event) => event.preventDefault());
$("file").addEventListener("change", () => {
  const [file] = $("file").files;
  if (file) open(file, file.name);
  $("file").value = ""; // so that the same file can be opened again
});
$("example").addEventListener("click", async () => {
  try {
    const response = await fetch("example.png");
    if (!response.ok) throw new Error(`the example picture: the server said ${response.status}`);
    await open(await response.blob(), "astronaut.png");
  } catch (error) {
    complain(error);
  }
});
$("webcam").addEventListener("click", () => (camera ? stopCamera() : startCamera()));
for (const id of ["model", "stage"]) {
  $(id).addEventListener("change", () => {
    if (!camera) look();
  });
}
$("layers").addEventListener("change", paint);
addEventListener("dragover", (event) => {
  event.preventDefault();
  $("frame").classList.add("over");
});
addEventListener("dragleave", () => $("frame").classList.remove("over"));
addEventListener("drop", (event) => {
  event.preventDefault();
  $("frame").classList.remove("over");
  const [file] = event.dataTransfer.files;
  if (file) open(file, file.name);
});
addEventListener("paste", (event) => {
  const [file] = event.clipboardData.files;
  if (file) open(file, file.name);
});
new ResizeObserver(() => requestAnimationFrame(paint)).observe($("frame"));
addEventListener("resize", paint);

// A box: typed, or dragged over the picture.
$("boxes").addEventListener("submit", (event) => {
  event.preventDefault();
  const typed = ["x0", "y0", "x1", "y1"].map((name) => $("boxes").elements[name].value.trim().replace(",", "."));
  const numbers = typed.map((text) => (text === "" ? NaN : Number(text)));
  if (!numbers.every(Number.isFinite)) {
    complain(`box: expected four numbers, px of the picture, got ${typed.map((text) => text || "nothing").join(", ")}`);
    return;
  }
  boxes = [numbers];
  look();
});
$("find").addEventListener("click", () => {
  boxes = null;
  look();
});

// A finger moves the page; once this is pressed, it draws the next box.
function drawing(on) {
  $("draw").setAttribute("aria-pressed", on);
  canvas.classList.toggle("drawing", on);
}
$("draw").addEventListener("click", () => drawing($("draw").getAttribute("aria-pressed") !== "true"));

function place(event) {
  const area = canvas.getBoundingClientRect();
  const [left, top, width] = view();
  const scale = width / area.width;
  return [left + (event.clientX - area.left) * scale, top + (event.clientY - area.top) * scale, scale];
}
let began = null;
canvas.addEventListener("pointerdown", (event) => {
  const moves = event.pointerType === "touch" && !canvas.classList.contains("drawing");
  if (!picture || camera || event.button !== 0 || moves) return;
  began = place(event);
  canvas.setPointerCapture(event.pointerId);
});
canvas.addEventListener("pointermove", (event) => {
  if (!picture) return;
  const [x, y, scale] = place(event);
  if (!began) {
    hover(event, x, y, scale);
    return;
  }
  const far = Math.max(Math.abs(x - began[0]), Math.abs(y - began[1]));
  dragged = far > 8 * scale ? [Math.min(x, began[0]), Math.min(y, began[1]), Math.max(x, began[0]), Math.max(y, began[1])] : null;
  paint();
});
function dropBox(done) {
  began = null;
  drawing(false);
  if (!dragged) return;
  const box = dragged.map((value) => Math.round(10 * value) / 10);
  dragged = null;
  paint();
  if (!done || box[0] === box[2] || box[1] === box[3]) return;
  ["x0", "y0", "x1", "y1"].forEach((name, i) => ($("boxes").elements[name].value = box[i]));
  boxes = [box];
  look();
}
canvas.addEventListener("pointerup", () => dropBox(true));
canvas.addEventListener("pointercancel", () => dropBox(false));
canvas.addEventListener("pointerleave", () => ($("tip").hidden = true));

function hover(event, x, y, scale) {
  const tip = $("tip");
  const found = result && layers().points ? nearest(result, hidden, x, y, 12 * scale) : null;
  tip.hidden = !found;
  if (!found) return;
  const face = result.faces[found.face];
  const [px, py] = face.keypoints[found.index];
  const sigma = face.sigma[found.index];
  const spread = sigma === null ? "" : `, ± ${sigma.toFixed(1)}`;
  tip.textContent = `${result.scheme.keypoints[found.index]}: ${px.toFixed(1)}, ${py.toFixed(1)}${spread} px`;
  const { width, height } = tip.getBoundingClientRect();
  const right = event.clientX + 14 + width < document.documentElement.clientWidth;
  tip.style.left = `${right ? event.clientX + 14 : Math.max(4, event.clientX - 14 - width)}px`;
  tip.style.top = `${Math.min(event.clientY + 14, window.innerHeight - height - 4)}px`;
}

// ------------------------------------------------------------------------------------------------ start

$("model").replaceChildren(...config.models.map(({ name }) => h("option", { value: name }, name)));
$("model").value = config.models[0].name;
const { connect } = await import(config.backend === "server" ? "./server.js" : "./browser.js");
backend = await connect(config);
document.body.dataset.ready = "";
