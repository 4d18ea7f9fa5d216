// The sidebar: numbers, threshold and the list of objects.
import { $, make, objects, percent, pixels, announceLater, seconds } from "./dom.js";

let listed = null; // the prediction whose rows are in the list

/** Show a request. @param settings {threshold, highlight} @param actions {strike, classify, hover} */
export function showSidebar(request, settings, actions) {
  const { prediction } = request;
  $("sent").textContent = sentNote(request);
  if (listed !== prediction) {
    listed = prediction;
    const instances = prediction?.instances ?? [];
    $("objects").replaceChildren(...instances.map((instance) => row(instance, actions)));
    $("scores").replaceChildren(...instances.map(({ score }) => make("option", { value: score.toFixed(2) })));
  }
  [...$("objects").children].forEach((item, index) => {
    const instance = prediction.instances[index];
    const [keep, , , name] = item.children;
    item.classList.toggle("struck", instance.struck);
    keep.checked = !instance.struck;
    keep.ariaLabel = `Keep ${nameOf(instance)}`;
    if (name !== document.activeElement) name.value = instance.class_name;
  });
  showNumbers(request, settings);
}

/** Update what depends on the threshold and the switches; cheap enough for every frame of a slider. */
export function showNumbers(request, { threshold, highlight }) {
  const minimum = threshold.toFixed(threshold > 0.99 && threshold < 1 ? 3 : 2); // an operating point may be 0.995
  $("threshold-value").textContent = minimum;
  const { prediction } = request;
  const visible = prediction ? prediction.visible(threshold) : [];
  const reach = prediction ? prediction.reach(threshold) : 0;
  $("count").textContent = prediction ? visible.length : "–";
  $("count-word").textContent = objects(visible.length);
  $("share").textContent = prediction ? percent(prediction.covered(threshold)) : "–";
  $("times").textContent = prediction ? times(request) : "";
  $("no-objects").hidden = !prediction || reach > 0;
  if (!prediction) return;
  const best = prediction.instances[0];
  $("no-objects").textContent = best
    ? `No object scores ${minimum} or more. Best score: ${best.score.toFixed(2)}.`
    : "The model found nothing, even at low confidence.";
  [...$("objects").children].forEach((item, index) => {
    item.toggleAttribute("hidden", index >= reach);
    item.classList.toggle("on", prediction.instances[index] === highlight);
  });
  announceLater(`${visible.length} ${objects(visible.length)}, ${percent(prediction.covered(threshold))} of the picture masked`);
}

/** Scroll the list, but not the page, to an object. */
export function reveal(instance) {
  const item = $("objects").children[listed.instances.indexOf(instance)];
  if (item) $("objects").scrollTop = item.offsetTop - item.offsetHeight;
}

export const nameOf = (instance) => `${instance.class_name} ${instance.number}`;

function row(instance, actions) {
  const keep = make("input", { type: "checkbox", onchange: () => actions.strike(instance) });
  const swatch = make("span", { className: "swatch" });
  swatch.style.background = instance.color;
  const number = make("span", { textContent: instance.number });
  const name = make("input", { className: "class-name", maxLength: 100, autocomplete: "off", ariaLabel: `Class of object ${instance.number}` });
  name.setAttribute("list", "classes");
  name.addEventListener("change", () => {
    actions.classify(instance, name.value.trim());
    name.value = instance.class_name;
  });
  const score = make("span", { textContent: instance.score.toFixed(2), title: "score" });
  const share = make("span", { textContent: percent(instance.area / listed.owner.length), title: pixels(instance.area) });
  const item = make("li", {}, keep, swatch, number, name, score, share);
  for (const [event, value] of [["pointerenter", instance], ["pointerleave", null], ["focusin", instance], ["focusout", null]]) {
    item.addEventListener(event, () => actions.hover(value));
  }
  return item;
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
