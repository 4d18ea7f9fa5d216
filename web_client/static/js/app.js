// The page's state, and who is told when it changes.
import { recolourTick, showCard, showFigures } from "./sidebar.js";
import { open, prepare, watch } from "./upload.js";
import { fillModels, findModels, preferred } from "./models.js";
import { Pane } from "./viewer.js";
import { busy, cancel, newRun, start } from "./client.js";
import { showStrip } from "./thumbnails.js";
import { curl, save, takeAway } from "./download.js";
import { $, objects, say, warn } from "./dom.js";

document.documentElement.classList.add("js");

const shots = []; // every picture: {file, name, preview, width, height, sent, version, other, runs: version → run}
let current = null;
let models = [];
let pinned = null;
let hovered = null;
const settings = { view: "overlay", opacity: 0.45, threshold: 0.5, wipe: 0, highlight: null };
const panes = [];

const act = {
  hover: (instance) => highlight((hovered = instance)),
  pin: (instance) => highlight((pinned = pinned === instance ? null : instance)),
  wipe(value) {
    settings.wipe = value;
    $("wipe").value = value;
    draw();
  },
  toggle(instance, shown) {
    instance.shown = shown;
    runOf(current).scene.refresh();
    draw();
  },
  recolour(instance, colour) {
    instance.colour = colour;
    recolourTick(runOf(current).scene, instance);
    draw();
  },
  cancel: (run) => cancel(run, changed),
  retry: (run) => send(run.shot, run.version),
  remove: (run) => remove(run.shot),
  select,
  drop: remove,
};

function highlight() {
  settings.highlight = hovered ?? pinned;
  draw();
}

/** The run of a picture with the model that is chosen for it. */
function runOf(shot) {
  return shot?.runs.get(shot.version);
}

async function take(files) {
  let added = null;
  complain("");
  for (const file of files) {
    try {
      const shot = { file, name: file.name || "pasted.png", sent: null, other: null, runs: new Map() };
      Object.assign(shot, await open(file));
      shot.version = current?.version ?? preferred(models); // only now: the models may have become known meanwhile
      shots.push(shot);
      added ??= shot;
      if (added === shot) select(shot);
      await send(shot, shot.version);
    } catch (error) {
      complain(error.message);
    }
  }
}

/** What is wrong with a file, where the person looks. */
function complain(message) {
  const place = current ? $("desk-error") : $("intake-error");
  for (const element of [$("desk-error"), $("intake-error")]) element.hidden = true;
  place.textContent = message;
  place.hidden = !message;
}

async function send(shot, version) {
  const earlier = shot.runs.get(version);
  if (earlier) cancel(earlier, changed);
  const run = newRun(shot, version);
  shot.runs.set(version, run);
  changed(run);
  try {
    shot.sent = await prepare(shot.file, shot, $("scale").checked);
  } catch (error) {
    Object.assign(run, { phase: "failed", error: error.message });
    changed(run);
    return;
  }
  // it may have been called by another name meanwhile, replaced, or cancelled
  if (shot.runs.get(run.version) === run && run.phase === "waiting") start(run, changed);
}

function changed(run) {
  if (run.shot.runs.get(run.version) !== run) return; // a newer run has taken its place
  if (run.phase !== run.told) {
    run.told = run.phase;
    if (run.phase === "done") say(`${run.shot.name}: ${run.scene.visible(settings.threshold).length} ${objects(run.scene.visible(settings.threshold).length)} found`);
    if (run.phase === "thinking") say(`Looking for objects in ${run.shot.name}`);
    if (run.phase === "failed") warn(`${run.shot.name}: ${run.error}`);
    if (run.code === "unknown_version") findModels(adoptModels); // the models have changed: look which ones there are
  }
  show();
}

function select(shot) {
  current = shot;
  hovered = pinned = settings.highlight = null;
  show();
}

function remove(shot) {
  for (const run of shot.runs.values()) cancel(run, changed);
  const place = shots.indexOf(shot);
  shots.splice(place, 1);
  if (current === shot) select(shots[Math.min(place, shots.length - 1)] ?? null);
  else show();
  if (!current) $("main").focus();
}

/** Everything anew: another picture, another phase of a run, another model. */
function show() {
  $("intake").hidden = Boolean(current);
  $("work").hidden = !current;
  if (!current) {
    while (panes.length) panes.pop().close();
    $("strip").replaceChildren();
    return;
  }
  const run = runOf(current) ?? newRun(current, current.version);
  const runs = [run];
  if ($("compare").checked && current.other) runs.push(current.runs.get(current.other) ?? newRun(current, current.other));
  while (panes.length > runs.length) panes.pop().close();
  while (panes.length < runs.length) {
    panes.push(new Pane(act));
    $("panes").append(panes.at(-1).element);
  }
  $("panes").classList.toggle("two", runs.length === 2);
  fillModels(models, current.version, current.other);
  panes.forEach((pane, index) => pane.show(runs[index]));
  showCard(run, settings, act);
  for (const button of document.querySelectorAll("[data-take]")) button.disabled = !run.scene;
  $("take-note").textContent = run.scene ? takeNote(run) : "There is something to take once the masks are there.";
  showStrip(shots, current, (shot) => runOf(shot) ?? newRun(shot, shot.version), settings.threshold, act);
  draw();
}

function takeNote({ scene, shot }) {
  const photo = `${shot.width} × ${shot.height}`, seen = `${scene.width} × ${scene.height}`;
  return photo === seen ? `What is shown, at ${photo} pixels.` : `What is shown: pictures at ${photo}, label map and annotations at ${seen} pixels.`;
}

let frame = 0;
/** Draw once before the next frame, however many things have changed. */
function draw() {
  frame ||= requestAnimationFrame(() => {
    frame = 0;
    if (!current) return;
    for (const pane of panes) pane.draw(settings);
    showFigures(runOf(current), settings);
  });
}

function compareWith(version) {
  current.other = version;
  if ($("compare").checked && version && !current.runs.has(version)) send(current, version);
  show();
}

watch(take);
findModels(adoptModels);
document.addEventListener("visibilitychange", () => document.hidden || findModels(adoptModels));

function adoptModels(found) {
  models = found;
  for (const shot of shots) {
    if (shot.version === "") adopt(shot, preferred(models));
  }
  show();
}

/** A picture sent before the models were known went to the default one: call its run by that name. */
function adopt(shot, version) {
  const run = shot.runs.get("");
  shot.runs.delete("");
  shot.version = version;
  if (run) shot.runs.set(version, Object.assign(run, { version }));
}

for (const name of ["threshold", "opacity", "wipe"]) {
  $(name).addEventListener("input", () => {
    settings[name] = Number($(name).value);
    draw();
  });
}
$("threshold").addEventListener("change", show); // the strip's counts follow when the slider rests
for (const radio of document.getElementsByName("view")) {
  radio.addEventListener("change", () => {
    settings.view = radio.value;
    $("opacity").disabled = radio.value !== "overlay";
    draw();
  });
}
for (const [id, shown] of [["show-all", true], ["hide-all", false]]) {
  $(id).addEventListener("click", () => {
    const scene = runOf(current)?.scene;
    for (const instance of scene?.instances ?? []) instance.shown = shown;
    scene?.refresh();
    draw();
  });
}
$("version").addEventListener("change", () => {
  current.version = $("version").value;
  if (current.other === current.version) current.other = null;
  if (!current.runs.has(current.version)) send(current, current.version);
  if ($("compare").checked && !current.other) compareWith(models.find((model) => model.version !== current.version).version);
  select(current);
});
$("compare").addEventListener("change", () => {
  compareWith(current.other ?? models.find((model) => model.version !== current.version)?.version ?? null);
});
$("other").addEventListener("change", () => compareWith($("other").value));
$("scale").addEventListener("change", () => {
  if (current && Math.max(current.width, current.height) > 2048) send(current, current.version);
});
for (const button of document.querySelectorAll("[data-take]")) {
  button.addEventListener("click", async () => {
    const run = runOf(current);
    if (button.dataset.take === "curl") return copyCurl(run);
    button.disabled = true;
    try {
      save(await takeAway(button.dataset.take, run, settings));
      say("The file is ready.");
    } catch {
      warn("The file could not be made: the picture may be too large for this browser.");
    } finally {
      button.disabled = false;
    }
  });
}

async function copyCurl(run) {
  const place = $("curl");
  place.hidden = false;
  place.value = curl(run);
  place.select();
  try {
    await navigator.clipboard.writeText(place.value); // browsers allow it on https and on this machine only
    say("Copied.");
  } catch {
    say("Press Control C to copy.");
  }
}

setInterval(() => {
  for (const pane of panes) if (busy(pane.run)) pane.box.tick();
}, 100);
