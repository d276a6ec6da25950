/** The page: a photo or the camera in, the result on the image and in words. */

import { coloursOf, rowsOf, show } from "./draw.js";
import { Model } from "./model.js";
import { closeCamera, openCamera, readFile, readFrame } from "./picture.js";
import { interpret } from "./record.js";
import { facts, knows, percent, summary, title } from "./words.js";

const part = Object.fromEntries([...document.querySelectorAll("[id]")].map((element) => [element.id, element]));
export const state = { manifest: null, model: null, limit: null, seen: null, video: null, opening: false, turn: 0 };

// without this a browser opens a dropped image in place of the page
for (const kind of ["dragover", "drop"]) document.addEventListener(kind, (event) => event.preventDefault());
start();

async function start() {
  part.unserved.hidden = true;
  try {
    const answer = await fetch("featherbone.json");
    if (!answer.ok) throw new Error("featherbone.json was not found beside this page");
    state.manifest = await answer.json();
    introduce(state.manifest);
    state.model = await Model.load(state.manifest, (share) => (part.loading.value = share));
  } catch (error) {
    part.summary.textContent = "";
    return showProblem(`The model failed to load: ${error.message || error}. Reload the page, or export the run again.`);
  } finally {
    part.loading.hidden = true;
  }
  part.summary.textContent = "Ready for an image.";
  part.choose.disabled = part.camera.disabled = false;
  listen();
  mark("ready");
}

/** What the page shows before there is an image. */
function introduce(manifest) {
  document.title = part.title.textContent = title(manifest);
  const head = manifest.head ? ` with ${manifest.head}` : "";
  part.subtitle.textContent = `${manifest.backbone}${head}. Runs in this browser; images stay on your device.`;
  part.knows.textContent = knows(manifest);
  const rows = facts(manifest).flatMap(([name, value]) => [element("dt", "", name), element("dd", "", value)]);
  part.facts.replaceChildren(...rows);
  part.about.hidden = false;
  state.limit = manifest.decode.shown ?? manifest.decode.score ?? null;
  part.limit.hidden = state.limit === null;
  part.score.value = state.limit;
  part.minimum.value = percent(state.limit);
}

function listen() {
  part.choose.addEventListener("click", () => part.file.click());
  part.file.addEventListener("change", () => {
    if (part.file.files[0]) take(part.file.files[0]);
    part.file.value = "";
  });
  part.camera.addEventListener("click", () => (state.video ? stopCamera() : startCamera()));
  part.score.addEventListener("input", () => {
    state.limit = Number(part.score.value);
    part.minimum.value = percent(state.limit);
    if (state.seen && !state.video) present();
  });
  document.addEventListener("paste", ({ clipboardData }) => takeGiven(clipboardData, "pasted"));
  document.addEventListener("dragover", () => part.stage.classList.add("over"));
  document.addEventListener("dragleave", () => part.stage.classList.remove("over"));
  document.addEventListener("drop", ({ dataTransfer }) => {
    part.stage.classList.remove("over");
    takeGiven(dataTransfer, "dropped");
  });
  addEventListener("pagehide", () => state.video && closeCamera(state.video));
  new ResizeObserver(() => state.seen && paint()).observe(part.stage);
}

function takeGiven(data, how) {
  if (data?.files[0]) take(data.files[0]);
  else showProblem(`What was ${how} is not an image; use a JPEG, PNG or WebP file.`);
}

/** Run the model on a file. */
async function take(file) {
  stopCamera();
  const turn = ++state.turn;
  mark("busy");
  part.summary.textContent = "Running the model…";
  await nextPaint();
  try {
    const picture = await readFile(file);
    const images = await look(picture, turn);
    if (images && (await state.model.improve(images))) await look(picture, turn);
    document.documentElement.dataset.runtime = state.model.runtime; // final, for scripts that drive the page
  } catch (error) {
    part.summary.textContent = state.seen ? summary(state.seen.result.record) : "Ready for an image.";
    showProblem(error.message || String(error));
  }
}

/** Run the model on an image and show the result; returns the network's input, null if another image came meanwhile. */
async function look(picture, turn) {
  const { images, outputs, milliseconds } = await state.model.run(picture.image);
  if (turn !== state.turn) return null;
  state.seen = { picture, images, outputs, milliseconds, result: null };
  present();
  return images;
}

async function startCamera() {
  if (state.opening) return; // the button is not disabled meanwhile, which would move the focus
  const turn = ++state.turn;
  state.opening = true;
  try {
    const video = await openCamera();
    if (turn !== state.turn) return closeCamera(video);
    state.video = video;
  } catch (error) {
    return showProblem(error.message);
  } finally {
    state.opening = false;
  }
  showCamera(true);
  await live(state.video, turn);
}

/** Frame after frame until the camera stops. */
async function live(video, turn) {
  let before = performance.now();
  try {
    while (state.video === video) {
      if (video.videoWidth) {
        const now = performance.now();
        const images = await look(readFrame(video), turn);
        if (images) part.time.textContent += `, ${Math.round(now - before)} ms per frame`;
        if (images && !state.model.tried) state.model.improve(images);
        before = now;
      }
      await nextPaint();
    }
  } catch (error) {
    stopCamera();
    showProblem(error.message || String(error));
  }
}

function stopCamera() {
  if (!state.video) return;
  closeCamera(state.video);
  state.video = null;
  state.turn += 1;
  showCamera(false);
}

function showCamera(on) {
  part.camera.textContent = on ? "Stop the camera" : "Use the camera";
  part.camera.setAttribute("aria-pressed", String(on));
  part.summary.setAttribute("aria-live", on ? "off" : "polite"); // a screen reader could not follow
}

/** Show what was last seen, at the current limit. */
function present() {
  const { outputs, picture, milliseconds } = state.seen;
  state.seen.result = interpret(outputs, state.manifest, picture.image, state.limit);
  const { record } = state.seen.result;
  part.problem.hidden = true;
  part.summary.textContent = summary(record);
  part.rows.replaceChildren(...listed(record));
  part.time.textContent = `${milliseconds.toFixed(milliseconds < 10 ? 1 : 0)} ms of inference on ${state.model.runtime}`;
  part.record.textContent = JSON.stringify(record);
  part.canvas.setAttribute("aria-label", `The image. ${summary(record)}`);
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
  const colours = coloursOf(record);
  return rowsOf(record).slice(0, 50).map((row, i) => {
    const share = row.share ?? (row.area ? row.area / (record.width * record.height) : row.score);
    const item = element("li", colours[i] ? "" : "barred");
    const sign = item.appendChild(element("span", colours[i] ? "swatch" : "bar"));
    if (colours[i]) sign.style.background = colours[i];
    else sign.appendChild(element("span")).style.width = `${100 * share}%`;
    item.append(element("span", "name", row.name), element("span", "number", percent(share)));
    return item;
  });
}

function showProblem(text) {
  part.problem.textContent = text;
  part.problem.hidden = false;
  mark("failed");
}

/** The page's progress, for scripts that drive it: ready, busy, done, failed. */
function mark(word) {
  document.documentElement.dataset.state = word;
}

function element(name, className = "", textContent = "") {
  return Object.assign(document.createElement(name), { className, textContent });
}

function nextPaint() {
  return new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
}
