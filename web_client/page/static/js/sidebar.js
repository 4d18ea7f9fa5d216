// The sidebar: numbers, threshold and the list of objects.
import { $, make, objects, percent, pixels, announceLater, seconds } from "./dom.js";

const editor = $("editor"); // stands in the row of the pinned object
const field = $("class-name");
let listed = null; // the prediction whose rows are in the list
let edited = null; // the object in the editor, and its class

/** @param classify called with the object and the class that the visitor typed */
export function watchEditor(classify) {
  editor.remove();
  editor.hidden = false;
  field.addEventListener("change", () => {
    const { instance } = edited;
    edited = null; // show the class that the object has then
    classify(instance, field.value.trim());
  });
}

/** Show a request. @param settings {threshold, highlight, pinned} @param actions {strike, pin, hover} */
export function showSidebar(request, settings, actions) {
  const { prediction } = request;
  $("sent").textContent = sentNote(request);
  if (listed !== prediction) {
    listed = prediction;
    $("objects").replaceChildren(...(prediction ? prediction.instances.map((instance) => row(instance, actions)) : []));
    ticks(prediction);
  }
  showNumbers(request, settings);
}

/** Update what depends on the threshold and the switches; cheap enough for every frame of a slider. */
export function showNumbers(request, { threshold, highlight, pinned }) {
  const minimum = threshold.toFixed(threshold > 0.99 && threshold < 1 ? 3 : 2); // an operating point may be 0.995
  $("threshold-value").textContent = minimum;
  const { prediction } = request;
  const visible = prediction ? prediction.visible(threshold) : [];
  $("count").textContent = prediction ? visible.length : "–";
  $("count-word").textContent = objects(visible.length);
  $("share").textContent = prediction ? percent(prediction.covered(threshold)) : "–";
  $("times").textContent = prediction ? times(request) : "";
  $("no-objects").hidden = !prediction || prediction.reach(threshold) > 0;
  if (!prediction) return;
  const best = prediction.instances[0];
  $("no-objects").textContent = best
    ? `No object scores ${minimum} or more. Best score: ${best.score.toFixed(2)}.`
    : "The model found nothing, even at low confidence.";
  const reach = prediction.reach(threshold);
  [...$("objects").children].forEach((item, index) => {
    const instance = prediction.instances[index];
    if (item.hidden !== index >= reach) item.hidden = index >= reach;
    item.classList.toggle("on", instance === highlight);
    item.classList.toggle("struck", instance.struck);
    const [keep, , button] = item.children;
    keep.checked = !instance.struck;
    if (button.firstChild.textContent !== nameOf(instance)) {
      button.firstChild.textContent = nameOf(instance);
      keep.ariaLabel = `Keep ${nameOf(instance)}`;
    }
    if (instance === pinned && editor.parentElement !== item) openEditor(item);
  });
  [...$("score-ticks").children].forEach((tick, index) => tick.setAttribute("opacity", index < reach ? 1 : 0.35));
  showEditor(prediction.instances.includes(pinned) ? pinned : null);
  announceLater(`${visible.length} ${objects(visible.length)}, ${percent(prediction.covered(threshold))} of the picture masked`);
}

/** Put the editor into a row, and scroll the list, but not the page, to it. */
function openEditor(item) {
  item.append(editor);
  const list = $("objects").getBoundingClientRect(), place = item.getBoundingClientRect();
  if (place.top < list.top || place.bottom > list.bottom) $("objects").scrollTop += place.top - list.top;
}

/** Fill the editor for another object or class; otherwise leave alone what is being typed. */
function showEditor(instance) {
  if (!instance) editor.remove();
  if (edited?.instance === instance && edited?.name === instance?.class_name) return;
  edited = { instance, name: instance?.class_name };
  field.value = edited.name ?? "";
}

export const nameOf = (instance) => `${instance.class_name} ${instance.number}`;

function row(instance, actions) {
  const keep = make("input", { type: "checkbox" });
  keep.addEventListener("change", () => actions.strike(instance));
  const swatch = make("span", { className: "swatch" });
  swatch.style.background = instance.color;
  const button = make(
    "button",
    { type: "button" },
    make("span"),
    make("span", { textContent: instance.score.toFixed(2), title: "score" }),
    make("span", { textContent: share(instance), title: pixels(instance.area) }),
  );
  button.addEventListener("click", () => actions.pin(instance));
  const item = make("li", {}, keep, swatch, button);
  for (const [event, value] of [["pointerenter", instance], ["pointerleave", null], ["focusin", instance], ["focusout", null]]) {
    item.addEventListener(event, () => actions.hover(value));
  }
  return item;
}

const share = (instance) => percent(instance.area / listed.owner.length);

/** A mark at each object's score, to see where the threshold cuts. */
function ticks(prediction) {
  const [low, high] = [Number($("threshold").min), Number($("threshold").max)];
  const marks = (prediction?.instances ?? []).map((instance) => {
    const mark = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    const x = (100 * (instance.score - low)) / (high - low);
    for (const [name, value] of Object.entries({ x: x - 0.35, y: 0, width: 0.7, height: 10, fill: instance.color })) {
      mark.setAttribute(name, value);
    }
    return mark;
  });
  $("score-ticks").replaceChildren(...marks);
}

function times({ reply, elapsed }) {
  const { decode = 0, inference = 0, postprocess = 0 } = reply.timings_ms ?? {};
  return `${seconds(elapsed)} in total · decode ${decode.toFixed(0)}, inference ${inference.toFixed(0)}, masks ${postprocess.toFixed(0)}\u00a0ms`;
}

function sentNote({ sent, picture: { width, height } }) {
  if (!sent) return `${width} × ${height} pixels`;
  const scaled = sent.width !== width || sent.height !== height;
  return scaled ? `Sent at ${sent.width} × ${sent.height}, scaled down from ${width} × ${height}` : `Sent unchanged, ${width} × ${height}`;
}
