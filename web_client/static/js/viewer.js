// One picture on its mat: the canvas, what is said about the object under the pointer, the compare handle, the caption.
import { lineWidth, paint, photos, sprite } from "./render.js";
import { stateBox } from "./progress.js";
import { make, objects, percent, pixels, seconds } from "./dom.js";

const beside = matchMedia("(min-width: 62rem)"); // the card stands beside the picture (work.css)

export class Pane {
  /** @param act {hover(instance), pin(instance), wipe(0..1), cancel(run), retry(run), remove(run)} */
  constructor(act) {
    this.act = act;
    this.canvas = make("canvas", { role: "img" });
    this.tip = make("div", { className: "tip", hidden: true, ariaHidden: "true" });
    this.handle = make("div", { className: "handle", hidden: true, ariaHidden: "true" });
    this.box = stateBox(act);
    this.mat = make("div", { className: "mat" }, this.canvas, this.handle, this.tip, this.box.element);
    this.caption = make("figcaption", { className: "caption" });
    this.element = make("figure", { className: "pane" }, this.mat, this.caption);
    this.sprites = new Map();
    this.observer = new ResizeObserver(() => this.layout());
    this.observer.observe(this.mat);
    this.listen();
  }

  listen() {
    this.canvas.addEventListener("pointermove", (event) => this.point(event));
    this.canvas.addEventListener("pointerleave", () => this.point(null));
    this.canvas.addEventListener("click", (event) => {
      this.point(event);
      this.act.pin(this.under(event));
    });
    this.handle.addEventListener("pointerdown", (event) => this.handle.setPointerCapture(event.pointerId));
    this.handle.addEventListener("pointermove", (event) => {
      if (!this.handle.hasPointerCapture(event.pointerId)) return;
      const box = this.canvas.getBoundingClientRect();
      this.act.wipe(Math.min(1, Math.max(0, (event.clientX - box.left) / box.width)));
    });
  }

  close() {
    this.observer.disconnect();
    this.element.remove();
  }

  show(run) {
    if (this.run !== run || this.scene !== run.scene) {
      this.run = run;
      this.scene = run.scene;
      this.tip.hidden = true;
      this.layers = null;
      this.sprites.clear();
    }
    this.box.show(run);
    this.layout();
  }

  /** Fit the canvas into the room there is; whatever was drawn for another size is forgotten. */
  layout() {
    const preview = this.run?.shot.preview;
    if (!preview) return;
    const style = getComputedStyle(this.mat);
    const roomX = this.mat.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight);
    const roomY = beside.matches ? this.mat.clientHeight - parseFloat(style.paddingTop) - parseFloat(style.paddingBottom) : 0.68 * innerHeight;
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
      this.layers = photos(preview, canvas.width, canvas.height);
      this.sprites.clear();
    }
    if (this.settings) this.draw(this.settings);
  }

  /** The sprite of an instance at the size on the screen. */
  spriteOf = (instance) => {
    let made = this.sprites.get(instance);
    if (!made || made.colour !== instance.colour) {
      const { width, height } = this.canvas;
      made = sprite(instance, this.scene, width / this.scene.width, lineWidth(width, height));
      made.colour = instance.colour;
      this.sprites.set(instance, made);
    }
    return made;
  };

  /** @param settings {view, opacity, threshold, wipe, highlight} */
  draw(settings) {
    this.settings = settings;
    if (!this.layers) return;
    const { canvas, layers, scene } = this;
    const context = canvas.getContext("2d");
    context.globalAlpha = 1;
    const visible = scene ? scene.visible(settings.threshold) : [];
    paint(context, layers, visible, this.spriteOf, scene ? settings : { ...settings, view: "original" });
    const split = scene ? Math.round(settings.wipe * canvas.width) : 0;
    if (split) context.drawImage(layers.photo, 0, 0, split, canvas.height, 0, 0, split, canvas.height);
    this.placeHandle(settings.wipe);
    this.describe(visible, settings);
  }

  placeHandle(wipe) {
    const shown = Boolean(this.scene) && wipe > 0;
    this.handle.hidden = !shown;
    if (!shown) return;
    const { style } = this.handle;
    style.left = `${this.canvas.offsetLeft + wipe * this.canvas.offsetWidth}px`;
    style.top = `${this.canvas.offsetTop}px`;
    style.height = `${this.canvas.offsetHeight}px`;
  }

  describe(visible, { threshold }) {
    const { run, scene } = this;
    const found = scene ? `${visible.length} ${objects(visible.length)}, ${percent(scene.covered(threshold))} masked` : "";
    this.canvas.setAttribute("aria-label", `${run.shot.name}${found && `: ${found}`}`);
    const parts = [make("b", { textContent: run.shot.name }), make("span", { textContent: run.reply?.model?.version ?? run.version })];
    if (found) parts.push(make("span", { textContent: found }));
    const inference = run.reply?.timings_ms?.inference;
    if (inference !== undefined) parts.push(make("span", { textContent: `${seconds(inference)} inference` }));
    this.caption.replaceChildren(...parts);
  }

  under(event) {
    if (!event || !this.scene) return null;
    const box = this.canvas.getBoundingClientRect();
    const x = (event.clientX - box.left) / box.width, y = (event.clientY - box.top) / box.height;
    return this.scene.at(x * this.scene.width, y * this.scene.height, this.settings.threshold);
  }

  point(event) {
    const instance = this.under(event);
    this.tip.hidden = !instance;
    if (instance) {
      this.tip.replaceChildren(
        make("b", { textContent: instance.class_name }),
        `score ${instance.score.toFixed(2)} · ${pixels(instance.area)}`,
      );
      const box = this.mat.getBoundingClientRect();
      const x = Math.min(event.clientX - box.left + 14, box.width - this.tip.offsetWidth - 4);
      const y = Math.min(event.clientY - box.top + 16, box.height - this.tip.offsetHeight - 4);
      this.tip.style.transform = `translate(${Math.max(4, x)}px, ${Math.max(4, y)}px)`;
    }
    if (this.hovered !== instance) this.act.hover((this.hovered = instance));
  }
}
