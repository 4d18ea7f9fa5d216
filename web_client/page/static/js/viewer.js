// One picture: the canvas, the tooltip, the compare handle, the caption.
import { lineWidth, paint, photoLayers, sprite } from "./render.js";
import { progressBox } from "./progress.js";
import { make, objects, percent, pixels, seconds } from "./dom.js";

const beside = matchMedia("(min-width: 62rem)"); // the sidebar stands beside the picture (workspace.css)

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
    this.observer = new ResizeObserver(() => this.layout());
    this.observer.observe(this.frame);
    this.listen();
  }

  listen() {
    this.canvas.addEventListener("pointermove", (event) => this.point(event));
    this.canvas.addEventListener("pointerleave", () => this.point(null));
    this.canvas.addEventListener("click", (event) => {
      this.point(event);
      this.actions.pin(this.under(event));
    });
  }

  close() {
    this.observer.disconnect();
    this.element.remove();
  }

  show(request) {
    if (this.request !== request || this.prediction !== request.prediction) {
      this.request = request;
      this.prediction = request.prediction;
      this.tooltip.hidden = true;
      this.layers = null;
      this.sprites.clear();
    }
    this.progress.show(request);
    this.layout();
  }

  /** Fit the canvas into its frame; drop what was drawn for another size. */
  layout() {
    const preview = this.request?.picture.preview;
    if (!preview) return;
    const style = getComputedStyle(this.frame);
    const roomX = this.frame.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight);
    const roomY = beside.matches ? this.frame.clientHeight - parseFloat(style.paddingTop) - parseFloat(style.paddingBottom) : 0.68 * innerHeight;
    const fit = Math.min(roomX / preview.width, roomY / preview.height, 2);
    if (!(fit > 0)) return;
    const width = Math.round(preview.width * fit), height = Math.round(preview.height * fit);
    const dots = Math.min(devicePixelRatio || 1, 2);
    const { canvas } = this;
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
    if (!this.layers || canvas.width !== Math.round(width * dots) || canvas.height !== Math.round(height * dots)) {
      canvas.width = Math.round(width * dots);
      canvas.height = Math.round(height * dots);
      this.layers = photoLayers(preview, canvas.width, canvas.height);
      this.sprites.clear();
    }
    if (this.settings) this.draw(this.settings);
  }

  /** An instance's sprite at screen size. */
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
    if (!this.layers) return;
    const { canvas, layers, prediction } = this;
    const context = canvas.getContext("2d");
    context.globalAlpha = 1;
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
    const found = prediction ? `${visible.length} ${objects(visible.length)}, ${percent(prediction.covered(threshold))} masked` : "";
    this.canvas.setAttribute("aria-label", `${request.picture.name}${found && `: ${found}`}`);
    const parts = [make("b", { textContent: request.picture.name }), make("span", { textContent: request.reply?.model?.version ?? request.version })];
    if (found) parts.push(make("span", { textContent: found }));
    const inference = request.reply?.timings_ms?.inference;
    if (inference !== undefined) parts.push(make("span", { textContent: `${seconds(inference)} inference` }));
    this.caption.replaceChildren(...parts);
  }

  under(event) {
    if (!event || !this.prediction) return null;
    const box = this.canvas.getBoundingClientRect();
    const x = (event.clientX - box.left) / box.width, y = (event.clientY - box.top) / box.height;
    return this.prediction.at(x * this.prediction.width, y * this.prediction.height, this.settings.threshold);
  }

  point(event) {
    const instance = this.under(event);
    this.tooltip.hidden = !instance;
    if (instance) {
      this.tooltip.replaceChildren(
        make("b", { textContent: instance.class_name }),
        `score ${instance.score.toFixed(2)} · ${pixels(instance.area)}`,
      );
      const box = this.frame.getBoundingClientRect();
      const x = Math.min(event.clientX - box.left + 14, box.width - this.tooltip.offsetWidth - 4);
      const y = Math.min(event.clientY - box.top + 16, box.height - this.tooltip.offsetHeight - 4);
      this.tooltip.style.transform = `translate(${Math.max(4, x)}px, ${Math.max(4, y)}px)`;
    }
    if (this.hovered !== instance) this.actions.hover((this.hovered = instance));
  }
}
