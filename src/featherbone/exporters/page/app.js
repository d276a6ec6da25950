/** The page: a photo or the camera in, the result on the picture and in words. */

import { decode } from "./decode.js";
import { coloursOf, rowsOf, show } from "./draw.js";
import { Model } from "./model.js";
import { closeCamera, openCamera, readFile, readFrame } from "./picture.js";
import { preprocess } from "./preprocess.js";
import { facts, knows, percent, summary, title } from "./words.js";

const part = Object.fromEntries([...document.querySelectorAll("[id]")].map((element) => [element.id, element]));
const state = { manifest: null, model: null, least: null, seen: null, video: null, opening: false, turn: 0 };

// else a browser shows a picture that is dropped, and the page is gone
for (const kind of ["dragover", "drop"]) document.addEventListener(kind, (event) => event.preventDefault());
start();

async function start() {
  part.unserved.hidden = true;
  try {
    state.manifest = await readManifest();
    introduce(state.manifest);
    state.model = await Model.load(state.manifest, (share) => (part.loading.value = share));
  } catch (error) {
    part.loading.hidden = true;
    part.summary.textContent = "";
    return tellProblem(`The model failed to load: ${error.message || error}. Load the page again, or export it anew.`);
  }
  part.loading.hidden = true;
  part.summary.textContent = "Ready for a picture.";
  part.choose.disabled = part.camera.disabled = false;
  listen();
  mark("ready");
}

async function readManifest() {
  const answer = await fetch("featherbone.json");
  if (!answer.ok) throw new Error("featherbone.json was not found beside this page");
  return answer.json();
}

/** What the page says before there is a picture. */
function introduce(manifest) {
  document.title = part.title.textContent = title(manifest);
  const head = manifest.head ? ` with ${manifest.head}` : "";
  part.subtitle.textContent = `${manifest.backbone}${head}. Runs in this browser; no picture leaves your device.`;
  part.knows.textContent = knows(manifest);
  part.facts.replaceChildren(
    ...facts(manifest).flatMap(([name, value]) => [element("dt", "", name), element("dd", "", value)]),
  );
  part.about.hidden = false;
  const { kind, shown, score } = manifest.decode;
  state.least = shown ?? score ?? null;
  part.limit.hidden = state.least === null;
  if (state.least === null || kind === "softmax") return;
  part.score.value = state.least;
  part.least.value = percent(state.least);
}

function listen() {
  part.choose.addEventListener("click", () => part.file.click());
  part.file.addEventListener("change", () => {
    if (part.file.files[0]) take(part.file.files[0]);
    part.file.value = "";
  });
  part.camera.addEventListener("click", () => (state.video ? stopCamera() : startCamera()));
  part.score.addEventListener("input", () => {
    state.least = Number(part.score.value);
    part.least.value = percent(state.least);
    if (state.seen && !state.video) tell();
  });
  document.addEventListener("paste", ({ clipboardData }) => takeGiven(clipboardData, "pasted"));
  document.addEventListener("dragover", () => part.stage.classList.add("over"));
  document.addEventListener("dragleave", () => part.stage.classList.remove("over"));
  document.addEventListener("drop", (event) => {
    part.stage.classList.remove("over");
    takeGiven(event.dataTransfer, "dropped");
  });
  addEventListener("pagehide", () => state.video && closeCamera(state.video));
  new ResizeObserver(() => state.seen && paint()).observe(part.stage);
}

function takeGiven(data, how) {
  if (data?.files[0]) take(data.files[0]);
  else tellProblem(`What was ${how} is no picture; give a JPEG, PNG or WebP file.`);
}

/** Look at a file. */
async function take(file) {
  stopCamera();
  const turn = ++state.turn;
  mark("busy");
  part.summary.textContent = "Looking…";
  await nextPaint();
  try {
    const picture = await readFile(file);
    const values = await look(picture, turn);
    if (values && (await state.model.improve(values))) await look(picture, turn);
    document.documentElement.dataset.runtime = state.model.runtime; // decided, for whoever drives the page
  } catch (error) {
    part.summary.textContent = state.seen ? summary(state.seen.result.record) : "Ready for a picture.";
    tellProblem(error.message || String(error));
  }
}

/** Run the model on a picture and tell what it says; the values it saw, nothing if another picture came meanwhile. */
async function look(picture, turn) {
  const { values, frame } = preprocess(picture.image, state.manifest.input);
  const { outputs, milliseconds } = await state.model.run(values);
  if (turn !== state.turn) return null;
  state.seen = { picture, frame, outputs, milliseconds, result: null };
  tell();
  return values;
}

async function startCamera() {
  if (state.opening) return; // not disabled meanwhile, which would take the focus away
  const turn = ++state.turn;
  state.opening = true;
  try {
    const video = await openCamera();
    if (turn !== state.turn) return closeCamera(video);
    state.video = video;
  } catch (error) {
    return tellProblem(error.message);
  } finally {
    state.opening = false;
  }
  part.camera.textContent = "Stop the camera";
  part.camera.setAttribute("aria-pressed", "true");
  part.summary.setAttribute("aria-live", "off"); // a reader could not follow
  await live(state.video, turn);
}

/** Frame after frame until the camera stops. */
async function live(video, turn) {
  let before = performance.now();
  try {
    while (state.video === video) {
      if (video.videoWidth) {
        const now = performance.now();
        const values = await look(readFrame(video), turn);
        if (values) part.time.textContent += `, ${Math.round(now - before)} ms a frame`;
        if (values && !state.model.tried) state.model.improve(values);
        before = now;
      }
      await nextPaint();
    }
  } catch (error) {
    stopCamera();
    tellProblem(error.message || String(error));
  }
}

function stopCamera() {
  if (!state.video) return;
  closeCamera(state.video);
  state.video = null;
  state.turn += 1;
  part.camera.textContent = "Use the camera";
  part.camera.setAttribute("aria-pressed", "false");
  part.summary.setAttribute("aria-live", "polite");
}

/** Decode what was last seen and show it everywhere. */
function tell() {
  const { outputs, frame, milliseconds } = state.seen;
  state.seen.result = decode(outputs, state.manifest, frame, ...(part.limit.hidden ? [] : [state.least]));
  const { record } = state.seen.result;
  part.problem.hidden = true;
  part.summary.textContent = summary(record);
  part.rows.replaceChildren(...listed(record));
  part.time.textContent = `${milliseconds.toFixed(milliseconds < 10 ? 1 : 0)} ms of inference on ${state.model.runtime}`;
  part.record.textContent = JSON.stringify(record);
  part.canvas.setAttribute("aria-label", `The picture. ${summary(record)}`);
  paint();
  mark("done");
}

function paint() {
  part.invitation.hidden = true;
  part.canvas.hidden = false;
  part.stage.classList.add("full");
  const { picture, result } = state.seen;
  show(part.canvas, picture.canvas, result, part.stage.clientWidth, Math.max(innerHeight * 0.75, 240));
}

/** A row for each class, object or segment, the first fifty. */
function listed(record) {
  const colours = record.task === "classification" ? [] : coloursOf(record);
  return rowsOf(record).slice(0, 50).map((row, i) => {
    const share = row.share ?? (row.area ? row.area / (record.width * record.height) : row.score);
    const swatch = element("span", "swatch");
    swatch.style.background = colours[i] ?? "";
    swatch.hidden = !colours[i];
    const item = element("li", colours[i] ? "" : "barred");
    item.append(swatch, element("span", "name", row.name), element("span", "number", percent(share)));
    if (!colours[i]) item.append(bar(share));
    return item;
  });
}

function bar(share) {
  const [outer, inner] = [element("span", "bar"), element("span")];
  outer.setAttribute("aria-hidden", "true");
  inner.style.width = `${100 * share}%`;
  outer.append(inner);
  return outer;
}

function tellProblem(text) {
  part.problem.textContent = text;
  part.problem.hidden = false;
  mark("failed");
}

/** How far the page is, for whoever drives it: loading, ready, busy, done, failed. */
function mark(word) {
  document.documentElement.dataset.state = word;
}

function element(name, kind = "", text = "") {
  const made = document.createElement(name);
  if (kind) made.className = kind;
  made.textContent = text;
  return made;
}

function nextPaint() {
  return new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
}
