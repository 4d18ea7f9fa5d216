// The page: its pictures and settings, the controls, and what is redrawn when something changes.
import { recolorTick, showSidebar, showNumbers } from "./sidebar.js";
import { LONG_SIDE, openPicture, prepareUpload, watchSources } from "./upload.js";
import { fillModels, findModels } from "./models.js";
import { Viewer } from "./viewer.js";
import { busy, cancel, newRequest, start } from "./client.js";
import { showThumbnails } from "./thumbnails.js";
import { curl, save, makeFile } from "./download.js";
import { rememberToken } from "./token.js";
import { $, objects, announce, announceError } from "./dom.js";

document.documentElement.classList.add("js");

const pictures = []; // {file, name, preview, width, height, version, other, sent, requests: version → request}; version is null until models are known
let current = null;
let models = [];
let pinned = null;
let hovered = null;
const settings = { view: "overlay", opacity: 0.45, threshold: Number($("threshold").defaultValue), wipe: 0, highlight: null };
const viewers = [];
let modelsKnown;
let sending = new Promise((done) => (modelsKnown = done)); // new pictures are sent one after the other

const actions = {
  hover: (instance) => highlight((hovered = instance)),
  pin: (instance) => highlight((pinned = pinned === instance ? null : instance)),
  wipe(value) {
    settings.wipe = value;
    $("wipe").value = value;
    draw();
  },
  toggle(instance, shown) {
    instance.shown = shown;
    requestOf(current).prediction.refresh();
    draw();
  },
  recolor(instance, color) {
    instance.color = color;
    recolorTick(requestOf(current).prediction, instance);
    draw();
  },
  cancel: (request) => cancel(request, changed),
  retry: (request) => send(request.picture, request.version),
  remove,
  select,
};

function highlight() {
  settings.highlight = hovered ?? pinned;
  draw();
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
      const picture = { file, name: file.name || "pasted.png", version: null, other: null, sent: null, requests: new Map() };
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
  if (earlier) cancel(earlier, changed);
  const request = newRequest(picture, version);
  picture.requests.set(version, request);
  changed(request);
  try {
    picture.sent = await prepareUpload(picture.file, picture, $("scale").checked, limitsOf(version));
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
  hovered = pinned = settings.highlight = null;
  show();
}

function remove(picture) {
  for (const request of picture.requests.values()) cancel(request, changed);
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
  for (const button of document.querySelectorAll("[data-download]")) button.disabled = !request.prediction;
  $("download-note").textContent = request.prediction ? downloadNote(request) : "Available when the masks are there.";
  showThumbnails(pictures, current, requestOf, settings.threshold, actions);
  draw();
}

function downloadNote({ prediction, picture }) {
  const photo = `${picture.width} × ${picture.height}`, seen = `${prediction.width} × ${prediction.height}`;
  return photo === seen ? `Files have ${photo} pixels.` : `Images have ${photo} pixels, the label map and annotations ${seen}.`;
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
const limitsOf = (version) => models.find((model) => model.version === version)?.limits ?? {};

function compareWith(version) {
  current.other = version;
  if ($("compare").checked && version && !current.requests.has(version)) send(current, version);
  show();
}

watchSources(addPictures);
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
$("threshold").addEventListener("change", show); // update the thumbnails' counts when the slider rests
for (const radio of document.getElementsByName("view")) {
  radio.addEventListener("change", () => {
    settings.view = radio.value;
    $("opacity").disabled = radio.value !== "overlay";
    draw();
  });
}
for (const [id, shown] of [["show-all", true], ["hide-all", false]]) {
  $(id).addEventListener("click", () => {
    const prediction = requestOf(current)?.prediction;
    for (const instance of prediction?.instances ?? []) instance.shown = shown;
    prediction?.refresh();
    draw();
  });
}
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
for (const button of document.querySelectorAll("[data-download]")) {
  button.addEventListener("click", async () => {
    const request = requestOf(current);
    if (button.dataset.download === "curl") return copyCurl(request);
    button.disabled = true;
    try {
      save(await makeFile(button.dataset.download, request, settings));
      announce("The file is ready.");
    } catch (error) {
      complain(`The file could not be made. ${error.message ?? ""}`);
    } finally {
      button.disabled = false;
    }
  });
}

async function copyCurl(request) {
  const place = $("curl");
  place.hidden = false;
  place.value = curl(request);
  place.select();
  try {
    await navigator.clipboard.writeText(place.value); // browsers allow it only on https and localhost
    announce("Copied.");
  } catch {
    announce("Press Ctrl C to copy.");
  }
}

setInterval(() => {
  for (const viewer of viewers) if (busy(viewer.request)) viewer.progress.tick();
}, 100);
