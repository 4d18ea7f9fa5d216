// One picture: the canvas, the tooltip, the compare handle, the caption.
import { lineWidth, paint, photoLayers, sprite } from "./render.js";
import { progressBox } from "./progress.js";
import { make, objects, percent, pixels, seconds } from "./dom.js";

export class Viewer {
  /** @param actions {hover(instance), pin(instance), cancel(request), retry(request), remove(picture)} */
  constructor(actions) {
    this.actions = actions;
    this.canvas = make("canvas", { role: "img" });
    this.tooltip = make("div", { className: "tooltip", hidden: true, ariaHidden: "true" });
    this.progress = progressBox(actions);
    this.frame = make("div", { className: "frame" }, this.canvas, this.tooltip, this.progress.element);
    this.caption = make("figcaption", { className: "caption" });
    this.element = make("figure", { className: "viewer" }, this.frame, this.caption);
    this.sprites = new Map();
    this.canvas.addEventListener("pointermove", (event) => this.point(event));
    this.canvas.addEventListener("pointerleave", () => this.point(null));
    this.canvas.addEventListener("click", (event) => {
      this.point(event);
      actions.pin(this.under(event));
    });
  }

  /** Show a request. The canvas has about as many pixels as there is room for; the style sheet fits it exactly. */
  show(request) {
    this.progress.show(request);
    const { preview } = request.picture;
    const dots = Math.min(devicePixelRatio, 2);
    const fit = Math.min(2, (dots * this.frame.clientWidth) / preview.width, (dots * 0.75 * innerHeight) / preview.height);
    const width = Math.round(preview.width * fit), height = Math.round(preview.height * fit);
    if (this.request === request && this.prediction === request.prediction && this.canvas.width === width) return;
    Object.assign(this.canvas, { width, height });
    this.layers = photoLayers(preview, width, height);
    this.request = request;
    this.prediction = request.prediction;
    this.tooltip.hidden = true;
    this.sprites.clear();
  }

  spriteOf = (instance) => {
    const { width, height } = this.canvas;
    if (!this.sprites.has(instance)) {
      this.sprites.set(instance, sprite(instance, this.prediction, width / this.prediction.width, lineWidth(width, height)));
    }
    return this.sprites.get(instance);
  };

  /** @param settings {view, opacity, threshold, wipe, highlight} */
  draw(settings) {
    this.settings = settings;
    const { canvas, layers, prediction } = this;
    const context = canvas.getContext("2d");
    const visible = prediction ? prediction.visible(settings.threshold) : [];
    paint(context, layers, visible, this.spriteOf, prediction ? settings : { ...settings, view: "original" });
    const split = prediction ? Math.round(settings.wipe * canvas.width) : 0;
    if (split) {
      context.drawImage(layers.photo, 0, 0, split, canvas.height, 0, 0, split, canvas.height);
      context.fillStyle = "#fff";
      context.fillRect(split - 1, 0, 2, canvas.height);
    }
    this.describe(visible, settings);
  }

  describe(visible, { threshold }) {
    const { request, prediction } = this;
    const { name } = request.picture;
    const found = prediction ? `${visible.length} ${objects(visible.length)}, ${percent(prediction.covered(threshold))} masked` : "";
    const inference = request.reply?.timings_ms?.inference;
    const parts = [request.reply?.model?.version ?? request.version, found, inference !== undefined && `${seconds(inference)} inference`];
    this.canvas.setAttribute("aria-label", `${name}${found && `: ${found}`}`);
    this.caption.replaceChildren(make("b", { textContent: name }), ...parts.filter(Boolean).map((textContent) => make("span", { textContent })));
  }

  under(event) {
    if (!event || !this.prediction) return null;
    const box = this.canvas.getBoundingClientRect();
    const x = (event.clientX - box.left) / box.width, y = (event.clientY - box.top) / box.height;
    return this.prediction.at(x * this.prediction.width, y * this.prediction.height, this.settings?.threshold);
  }

  point(event) {
    const instance = this.under(event);
    this.tooltip.hidden = !instance;
    if (instance) {
      const text = `score ${instance.score.toFixed(2)} · ${pixels(instance.area)}`;
      this.tooltip.replaceChildren(make("b", { textContent: instance.class_name }), text);
      const box = this.frame.getBoundingClientRect();
      const x = Math.min(event.clientX - box.left + 14, box.width - this.tooltip.offsetWidth - 4);
      const y = Math.min(event.clientY - box.top + 16, box.height - this.tooltip.offsetHeight - 4);
      this.tooltip.style.transform = `translate(${Math.max(4, x)}px, ${Math.max(4, y)}px)`;
    }
    if (this.hovered !== instance) this.actions.hover((this.hovered = instance));
  }
}
