// The page: its pictures and settings, the controls, and what is redrawn when something changes.
import { nameOf, showNumbers, showSidebar, watchEditor } from "./sidebar.js";
import { LONG_SIDE, openPicture, prepareUpload, watchSources } from "./upload.js";
import { fillModels, findModels } from "./models.js";
import { Viewer } from "./viewer.js";
import { busy, cancel, newRequest, sendForReview, start } from "./client.js";
import { canUndo, correct, forget, undo } from "./corrections.js";
import { showThumbnails } from "./thumbnails.js";
import { showDownloads, watchDownloads } from "./download.js";
import { rememberToken } from "./token.js";
import { $, make, objects, announce, announceError } from "./dom.js";

document.documentElement.classList.add("js");

const pictures = []; // {file, name, preview, width, height, version, other, flagged, requests: version → request}; version is null until models are known
let current = null;
let models = [];
let hovered = null;
const settings = { view: "overlay", opacity: 0.45, threshold: Number($("threshold").defaultValue), wipe: 0, highlight: null, pinned: null };
const viewers = [];
let thresholdMoved = false; // by the user; until then it is the operating point of the picture's model
let modelsKnown;
let sending = new Promise((done) => (modelsKnown = done)); // new pictures are sent one after the other

const actions = {
  hover: (instance) => highlight((hovered = instance)),
  pin: (instance) => highlight((settings.pinned = settings.pinned === instance ? null : instance)),
  strike(instance) {
    correct(current, instance, "struck", !instance.struck, `${nameOf(instance)} ${instance.struck ? "kept" : "struck out"}`);
    corrected();
  },
  cancel: (request) => cancel(request, changed),
  retry: (request) => send(request.picture, request.version),
  remove,
  select,
};

function highlight() {
  settings.highlight = hovered ?? settings.pinned;
  draw();
}

/** An empty name leaves the class as it was. */
function classify(instance, name) {
  if (name && name !== instance.class_name) correct(current, instance, "class_name", name, `${nameOf(instance)} is now ${name}`);
  corrected();
}

function corrected() {
  requestOf(current).prediction?.refresh();
  show();
}

function undoLast() {
  const last = undo();
  if (!last) return;
  if (last.target !== last.picture) last.picture.version = last.version;
  if (last.picture !== current) select(last.picture);
  corrected();
}

/** A picture's request for the model chosen for it. */
function requestOf(picture) {
  return picture && (picture.requests.get(picture.version) ?? newRequest(picture, picture.version));
}

async function addPictures(files) {
  const before = current;
  let first = true;
  complain("");
  for (const file of files) {
    try {
      const picture = { file, name: file.name || "pasted.png", version: null, other: null, flagged: false, requests: new Map() };
      Object.assign(picture, await openPicture(file));
      pictures.push(picture);
      if (first) select(picture);
      else show();
      first = false;
      sending = sending.then(() => sendFirst(picture, before?.version));
    } catch (error) {
      complain(error.message);
    }
  }
}

/** Send a new picture, once the models are known, to the model of the picture before it or to the default one. */
async function sendFirst(picture, version) {
  if (!pictures.includes(picture)) return; // removed meanwhile
  picture.version = version ?? (models.find((model) => model.default) ?? models[0]).version;
  await send(picture, picture.version);
}

/** Show an error at the top, or hide the last one. */
function complain(message) {
  const place = current ? $("workspace-error") : $("upload-error");
  for (const element of [$("workspace-error"), $("upload-error")]) element.hidden = true;
  place.textContent = message;
  place.hidden = !message;
}

/** Request a prediction; a request for the same model that is still under way is canceled. */
async function send(picture, version) {
  const earlier = picture.requests.get(version);
  if (earlier) {
    cancel(earlier, changed);
    forget(picture); // its objects are replaced
  }
  const request = newRequest(picture, version);
  picture.requests.set(version, request);
  changed(request);
  try {
    request.tiled = $("tiles").checked;
    request.sent = await prepareUpload(picture.file, picture, $("scale").checked && !request.tiled, request.tiled, limitsOf(version));
  } catch (error) {
    Object.assign(request, { phase: "failed", error: error.message });
    changed(request);
    return;
  }
  // a newer request may have replaced it, or the user canceled it
  if (picture.requests.get(version) === request && request.phase === "waiting") start(request, changed);
}

function changed(request) {
  if (request.picture.requests.get(request.version) !== request) return; // a newer one has replaced it
  if (request.phase !== request.announced) {
    request.announced = request.phase;
    if (request.phase === "done") {
      const { length } = request.prediction.visible(settings.threshold);
      announce(`${request.picture.name}: ${length} ${objects(length)} found`);
    }
    if (request.phase === "thinking") announce(`Looking for objects in ${request.picture.name}`);
    if (request.phase === "failed") announceError(`${request.picture.name}: ${request.error}`);
    if (request.code === "unknown_version") findModels(useModels); // the models have changed
  }
  show();
}

function select(picture) {
  current = picture;
  hovered = settings.pinned = settings.highlight = null;
  show();
}

function remove(picture) {
  for (const request of picture.requests.values()) cancel(request, changed);
  forget(picture);
  const place = pictures.indexOf(picture);
  pictures.splice(place, 1);
  if (current === picture) select(pictures[Math.min(place, pictures.length - 1)] ?? null);
  else show();
  if (!current) $("main").focus();
}

/** Update everything: another picture, another phase of a request, another model. */
function show() {
  $("upload").hidden = Boolean(current);
  $("workspace").hidden = !current;
  if (!current) {
    while (viewers.length) viewers.pop().close();
    $("thumbnails").replaceChildren();
    return;
  }
  const model = models.find(({ version }) => version === current.version) ?? models.find((entry) => entry.default);
  if (model && !thresholdMoved) $("threshold").value = settings.threshold = model.score_threshold;
  const request = requestOf(current);
  const requests = [request];
  if ($("compare").checked && current.other) requests.push(current.requests.get(current.other) ?? newRequest(current, current.other));
  while (viewers.length > requests.length) viewers.pop().close();
  while (viewers.length < requests.length) {
    viewers.push(new Viewer(actions));
    $("viewers").append(viewers.at(-1).element);
  }
  $("viewers").classList.toggle("two", requests.length === 2);
  fillModels(models, current.version, current.other);
  viewers.forEach((viewer, index) => viewer.show(requests[index]));
  showSidebar(request, settings, actions);
  $("classes").replaceChildren(...classesOf(current.version).map((value) => make("option", { value })));
  $("undo").disabled = !canUndo();
  $("flag").checked = current.flagged;
  if ($("review")) {
    $("review").disabled = !request.prediction || request.reviewed;
    $("review").textContent = request.reviewed ? "Sent for review." : "Send for review";
  }
  showDownloads(request);
  showThumbnails(pictures, current, requestOf, settings.threshold, actions);
  draw();
}

let frame = 0;
/** Draw once before the next animation frame, however many things have changed. */
function draw() {
  frame ||= requestAnimationFrame(() => {
    frame = 0;
    if (!current) return;
    for (const viewer of viewers) viewer.draw(settings);
    showNumbers(requestOf(current), settings);
  });
}

const another = (version) => models.find((model) => model.version !== version)?.version ?? null;
const classesOf = (version) => models.find((model) => model.version === version)?.classes ?? [];
const limitsOf = (version) => models.find((model) => model.version === version)?.limits ?? {};

function compareWith(version) {
  current.other = version;
  if ($("compare").checked && version && !current.requests.has(version)) send(current, version);
  show();
}

watchSources(addPictures);
watchEditor(classify);
watchDownloads({
  request: () => requestOf(current),
  requests: () => pictures.map(requestOf).filter((request) => request.prediction),
  classes: () => [...new Set(pictures.flatMap((picture) => classesOf(picture.version)))],
  settings,
  complain,
});
rememberToken(() => findModels(useModels));
findModels(useModels);
document.addEventListener("visibilitychange", () => document.hidden || findModels(useModels));

function useModels(found) {
  models = found;
  modelsKnown();
  show();
}

for (const name of ["threshold", "opacity", "wipe"]) {
  $(name).addEventListener("input", () => {
    settings[name] = Number($(name).value);
    draw();
  });
}
$("threshold").addEventListener("input", () => (thresholdMoved = true), { once: true });
$("threshold").addEventListener("change", show); // update the thumbnails' counts when the slider rests
for (const radio of document.getElementsByName("view")) {
  radio.addEventListener("change", () => {
    settings.view = radio.value;
    $("opacity").disabled = radio.value !== "overlay";
    draw();
  });
}
$("undo").addEventListener("click", undoLast);
$("flag").addEventListener("change", () => {
  const { checked } = $("flag");
  correct(current, current, "flagged", checked, `${current.name} ${checked ? "flagged as wrong" : "no longer flagged"}`);
  show();
});
$("review")?.addEventListener("click", async () => {
  const request = requestOf(current);
  try {
    await sendForReview(request);
    announce("Sent for review.");
    show();
  } catch (error) {
    complain(error.message);
  }
});
document.addEventListener("keydown", (event) => {
  if (!current || event.target.matches("input:not([type=checkbox]), select, textarea")) return;
  const undoes = (event.ctrlKey || event.metaKey) && !event.shiftKey && event.key.toLowerCase() === "z";
  const listed = requestOf(current).prediction?.instances ?? []; // not what the second model found
  const strikes = ["Delete", "Backspace"].includes(event.key) && listed.includes(settings.highlight);
  if (!undoes && !strikes) return;
  event.preventDefault();
  if (undoes) undoLast();
  else actions.strike(settings.highlight);
});
$("version").addEventListener("change", () => {
  current.version = $("version").value;
  if (current.other === current.version) current.other = null;
  if (!current.requests.has(current.version)) send(current, current.version);
  if ($("compare").checked && !current.other) compareWith(another(current.version));
  select(current);
});
$("compare").addEventListener("change", () => compareWith(current.other ?? another(current.version)));
$("other").addEventListener("change", () => compareWith($("other").value));
$("scale").addEventListener("change", () => {
  if (current?.version && Math.max(current.width, current.height) > LONG_SIDE) send(current, current.version);
});
$("tiles").addEventListener("change", () => {
  $("scale").disabled = $("tiles").checked;
  if (current?.version) send(current, current.version);
});
setInterval(() => {
  for (const viewer of viewers) if (busy(viewer.request)) viewer.progress.tick();
}, 100);
