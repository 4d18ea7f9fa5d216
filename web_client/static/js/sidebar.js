// The card beside the picture: figures, threshold, and the list of objects.
import { $, make, objects, percent, pixels, sayLater, seconds } from "./dom.js";

let listed = null; // the scene whose rows are in the list

/** Bring everything up to date for a run. @param settings {threshold, highlight} @param act {toggle, recolour, hover} */
export function showCard(run, settings, act) {
  const scene = run?.scene;
  $("sent").textContent = run ? sentNote(run.shot) : "";
  if (listed !== scene) {
    listed = scene;
    $("objects").replaceChildren(...(scene ? scene.instances.map((instance) => row(instance, act)) : []));
    ticks(scene);
  }
  showFigures(run, settings);
}

/** What moves with the threshold and the switches; cheap enough for every frame of a slider. */
export function showFigures(run, { threshold, highlight }) {
  $("threshold-value").textContent = threshold.toFixed(2);
  const scene = run?.scene;
  const visible = scene ? scene.visible(threshold) : [];
  $("count").textContent = scene ? visible.length : "–";
  $("count-word").textContent = objects(visible.length);
  $("share").textContent = scene ? percent(scene.covered(threshold)) : "–";
  $("times").textContent = scene ? times(run) : "";
  $("none").hidden = !scene || scene.reach(threshold) > 0;
  if (!scene) return;
  const best = scene.instances[0];
  $("none").textContent = best
    ? `Nothing reaches ${threshold.toFixed(2)}. The surest object has ${best.score.toFixed(2)}: move the threshold down.`
    : "The model found nothing in this picture, not even something doubtful.";
  const reach = scene.reach(threshold);
  [...$("objects").children].forEach((item, index) => {
    const instance = scene.instances[index];
    if (item.hidden !== index >= reach) item.hidden = index >= reach;
    item.classList.toggle("on", instance === highlight);
    item.classList.toggle("off", !instance.shown);
    item.querySelector("[type=checkbox]").checked = instance.shown;
  });
  [...$("ticks").children].forEach((tick, index) => tick.setAttribute("opacity", index < reach ? 1 : 0.35));
  sayLater(`${visible.length} ${objects(visible.length)}, ${percent(scene.covered(threshold))} of the picture masked`);
}

function row(instance, act) {
  const name = `${instance.class_name} ${instance.number}`;
  const shown = make("input", { type: "checkbox", checked: true, ariaLabel: `Show ${name}` });
  shown.addEventListener("change", () => act.toggle(instance, shown.checked));
  const colour = make("input", { type: "color", value: instance.colour, ariaLabel: `Colour of ${name}` });
  colour.addEventListener("input", () => act.recolour(instance, colour.value));
  const button = make(
    "button",
    { type: "button" },
    make("span", { textContent: name }),
    make("span", { textContent: instance.score.toFixed(2), title: "score" }),
    make("span", { textContent: share(instance), title: pixels(instance.area) }),
  );
  button.addEventListener("click", () => act.pin(instance));
  const item = make("li", {}, shown, colour, button);
  for (const [event, value] of [["pointerenter", instance], ["pointerleave", null], ["focusin", instance], ["focusout", null]]) {
    item.addEventListener(event, () => act.hover(value));
  }
  return item;
}

const share = (instance) => percent(instance.area / listed.owner.length);

/** One mark per object at its score, so that one sees where the threshold will cut. */
function ticks(scene) {
  const [low, high] = [Number($("threshold").min), Number($("threshold").max)];
  const marks = (scene?.instances ?? []).map((instance) => {
    const mark = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    const x = (100 * (instance.score - low)) / (high - low);
    for (const [name, value] of Object.entries({ x: x - 0.35, y: 0, width: 0.7, height: 10, fill: instance.colour })) {
      mark.setAttribute(name, value);
    }
    return mark;
  });
  $("ticks").replaceChildren(...marks);
}

export function recolourTick(scene, instance) {
  $("ticks").children[scene.instances.indexOf(instance)]?.setAttribute("fill", instance.colour);
}

function times({ reply, elapsed }) {
  const { decode = 0, inference = 0, postprocess = 0 } = reply.timings_ms ?? {};
  return `${seconds(elapsed)} in all · decode ${decode.toFixed(0)}, inference ${inference.toFixed(0)}, masks ${postprocess.toFixed(0)}\u00a0ms`;
}

function sentNote({ sent, width, height }) {
  if (!sent) return `${width} × ${height} pixels`;
  const scaled = sent.width !== width || sent.height !== height;
  return scaled ? `Sent at ${sent.width} × ${sent.height}, scaled from ${width} × ${height}` : `Sent as it is, ${width} × ${height}`;
}
