// The page: its pictures and settings, the controls, and what is redrawn when something changes.
import { nameOf, reveal, showNumbers, showSidebar } from "./sidebar.js";
import { LONG_SIDE, openPicture, prepareUpload, watchSources } from "./upload.js";
import { fillModels, findModels } from "./models.js";
import { Viewer } from "./viewer.js";
import { busy, cancel, newRequest, rememberToken, sendForReview, start } from "./client.js";
import { canUndo, correct, forget, undo } from "./corrections.js";
import { showThumbnails } from "./thumbnails.js";
import { showDownloads, watchDownloads } from "./download.js";
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
  pin(instance) {
    highlight((settings.pinned = settings.pinned === instance ? null : instance));
    if (settings.pinned) reveal(instance);
  },
  strike(instance) {
    correct(current, instance, "struck", !instance.struck, `${nameOf(instance)} ${instance.struck ? "kept" : "struck out"}`);
    corrected();
  },
  /** An empty name leaves the class as it was. */
  classify(instance, name) {
    if (!name || name === instance.class_name) return;
    correct(current, instance, "class_name", name, `${nameOf(instance)} is now ${name}`);
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

/** A picture's request for one of its models; the one chosen for it by default. */
function requestOf(picture, version = picture.version) {
  return picture.requests.get(version) ?? newRequest(picture, version);
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
    request.sent = await prepareUpload(picture.file, picture, $("scale").checked && !request.tiled, request.tiled, modelOf(version)?.limits ?? {});
  } catch (error) {
    changed(Object.assign(request, { phase: "failed", error: error.message }));
    return;
  }
  // a newer request may have replaced it, or the user canceled it
  if (picture.requests.get(version) === request && request.phase === "waiting") start(request, changed);
}

function changed(request) {
  const { picture, version, phase, prediction, error } = request;
  if (picture.requests.get(version) !== request) return; // a newer one has replaced it
  if (phase === "done") {
    const { length } = prediction.visible(settings.threshold);
    announce(`${picture.name}: ${length} ${objects(length)} found`);
  }
  if (phase === "working") announce(`Looking for objects in ${picture.name}`);
  if (phase === "failed") announceError(`${picture.name}: ${error}`);
  if (request.code === "unknown_version") findModels(useModels); // the models have changed
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
    $("thumbnails").replaceChildren();
    return;
  }
  const model = modelOf(current.version) ?? models.find((entry) => entry.default);
  if (model && !thresholdMoved) $("threshold").value = settings.threshold = model.score_threshold;
  const request = requestOf(current);
  const shown = $("compare").checked && current.other ? [request, requestOf(current, current.other)] : [request];
  while (viewers.length > shown.length) viewers.pop().element.remove();
  while (viewers.length < shown.length) {
    viewers.push(new Viewer(actions));
    $("viewers").append(viewers.at(-1).element);
  }
  $("viewers").classList.toggle("two", shown.length === 2);
  fillModels(models, current.version, current.other);
  viewers.forEach((viewer, index) => viewer.show(shown[index]));
  showSidebar(request, settings, actions);
  $("classes").replaceChildren(...classesOf(current).map((value) => make("option", { value })));
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

const modelOf = (version) => models.find((model) => model.version === version);
const classesOf = (picture) => modelOf(picture.version)?.classes ?? [];

/** Show a second model beside the first: the one given, or any other one. */
function compareWith(version) {
  current.other = version ?? models.find((model) => model.version !== current.version)?.version ?? null;
  if ($("compare").checked && current.other && !current.requests.has(current.other)) send(current, current.other);
  show();
}

function useModels(found) {
  models = found;
  modelsKnown();
  show();
}

watchSources(addPictures);
watchDownloads({
  request: () => requestOf(current),
  requests: () => pictures.map((picture) => requestOf(picture)).filter((request) => request.prediction),
  classes: () => [...new Set(pictures.flatMap(classesOf))],
  settings,
  complain,
});
rememberToken(() => findModels(useModels));
findModels(useModels);
document.addEventListener("visibilitychange", () => document.hidden || findModels(useModels));

window.addEventListener("resize", show);

for (const name of ["threshold", "opacity", "wipe"]) {
  $(name).addEventListener("input", () => {
    settings[name] = Number($(name).value);
    thresholdMoved ||= name === "threshold";
    draw();
  });
}
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
  try {
    await sendForReview(requestOf(current));
    announce("Sent for review.");
    show();
  } catch (error) {
    complain(error.message);
  }
});
document.addEventListener("keydown", (event) => {
  if (!current || event.target.matches("input:not([type=checkbox]), select")) return;
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
  if (!current.other) compareWith(null);
  select(current);
});
$("compare").addEventListener("change", () => compareWith(current.other));
$("other").addEventListener("change", () => compareWith($("other").value));
$("scale").addEventListener("change", () => {
  if (current?.version && Math.max(current.width, current.height) > LONG_SIDE) send(current, current.version);
});
$("tiles").addEventListener("change", () => {
  $("scale").disabled = $("tiles").checked;
  if (current?.version) send(current, current.version);
});
setInterval(() => {
  for (const { request, progress } of viewers) if (busy(request)) progress.show(request);
}, 100);
