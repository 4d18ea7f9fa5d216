// Draws masks on canvases, on the screen and in downloads alike: only the scale differs.
import { eachRun } from "./rle.js";

export function canvas(width, height) {
  const made = document.createElement("canvas");
  made.width = Math.max(1, Math.round(width));
  made.height = Math.max(1, Math.round(height));
  return made;
}

/** An instance at a scale, in its color: {x, y, fill, edge}, to be drawn at (x, y). Made once, drawn in every frame. */
export function sprite(instance, prediction, scale, line) {
  const { crop } = instance;
  const pad = Math.ceil(line) + 1;
  const x = Math.floor(crop.x * scale) - pad;
  const y = Math.floor(crop.y * scale) - pad;
  const width = Math.ceil(crop.width * scale) + 2 * pad + 1;
  const height = Math.ceil(crop.height * scale) + 2 * pad + 1;
  const fill = canvas(width, height);
  const edge = canvas(width, height);
  if (crop.width) {
    const mask = maskOf(instance, prediction.height);
    const onto = fill.getContext("2d");
    onto.imageSmoothingQuality = "high";
    onto.drawImage(mask, crop.x * scale - x, crop.y * scale - y, crop.width * scale, crop.height * scale);
    const rim = edge.getContext("2d");
    spread(rim, fill, line, 0, 0);
    rim.globalCompositeOperation = "destination-out";
    rim.drawImage(fill, 0, 0);
    tint(onto, instance.color);
    tint(rim, instance.color);
  }
  return { x, y, fill, edge };
}

/** The mask's bounding box as a canvas, opaque where the mask is. */
function maskOf(instance, rows) {
  const { x, y, width, height } = instance.crop;
  const image = new ImageData(width, height);
  const pixels = new Uint32Array(image.data.buffer);
  eachRun(instance.counts, (start, end) => {
    let column = Math.floor(start / rows) - x;
    let row = (start % rows) - y;
    for (let at = start; at < end; at++) {
      pixels[row * width + column] = 0xffffffff;
      if (++row + y === rows) [row, column] = [-y, column + 1];
    }
  });
  const made = canvas(width, height);
  made.getContext("2d").putImageData(image, 0, 0);
  return made;
}

/** Draw an image eight times around (x, y). */
function spread(context, image, distance, x, y) {
  for (let angle = 0; angle < 2 * Math.PI - 0.01; angle += Math.PI / 4) {
    context.drawImage(image, x + distance * Math.cos(angle), y + distance * Math.sin(angle));
  }
}

function tint(context, color) {
  context.globalCompositeOperation = "source-in";
  context.fillStyle = color;
  context.fillRect(0, 0, context.canvas.width, context.canvas.height);
}

/** The picture at a size, in color and in gray (by luminosity; every browser supports the blend mode). */
export function photoLayers(picture, width, height) {
  const photo = canvas(width, height);
  const photoContext = photo.getContext("2d");
  photoContext.imageSmoothingQuality = "high";
  photoContext.drawImage(picture, 0, 0, width, height);
  const gray = canvas(width, height);
  const context = gray.getContext("2d");
  context.drawImage(photo, 0, 0);
  context.globalCompositeOperation = "saturation";
  context.fillStyle = "#808080";
  context.fillRect(0, 0, gray.width, gray.height);
  return { photo, gray, scratch: canvas(width, height) };
}

/**
 * Draw one view.
 * @param layers photoLayers() of this size
 * @param visible the instances to draw, best score first
 * @param spriteOf instance → sprite() at this scale
 * @param how {view, opacity, highlight}
 */
export function paint(context, layers, visible, spriteOf, { view, opacity, highlight = null }) {
  const { width, height } = context.canvas;
  if (view === "masks") {
    context.fillStyle = "#101113";
    context.fillRect(0, 0, width, height);
  } else {
    context.drawImage(view === "splash" ? layers.gray : layers.photo, 0, 0);
  }
  if (view === "splash") splash(context, layers, visible, spriteOf);
  if (view === "overlay" || view === "masks") {
    for (let i = visible.length - 1; i >= 0; i--) {
      const { x, y, fill, edge } = spriteOf(visible[i]);
      context.globalAlpha = view === "masks" ? 1 : opacity;
      context.drawImage(fill, x, y);
      context.globalAlpha = 1;
      if (view === "overlay") context.drawImage(edge, x, y);
    }
  }
  if (highlight && visible.includes(highlight)) outline(context, spriteOf(highlight));
}

/** The picture in color where a mask is. */
function splash(context, { photo, scratch }, visible, spriteOf) {
  const onto = scratch.getContext("2d");
  onto.globalCompositeOperation = "source-over";
  onto.clearRect(0, 0, scratch.width, scratch.height);
  for (const instance of visible) {
    const { x, y, fill } = spriteOf(instance);
    onto.drawImage(fill, x, y);
  }
  onto.globalCompositeOperation = "source-in";
  onto.drawImage(photo, 0, 0);
  context.drawImage(scratch, 0, 0);
}

/** A white line inside a black one, visible on any picture. */
function outline(context, { x, y, edge, fill }) {
  context.globalAlpha = 0.35;
  context.drawImage(fill, x, y);
  context.globalAlpha = 1;
  for (const [color, distance] of [["#000", 2.5], ["#fff", 1.25]]) {
    const rim = canvas(edge.width, edge.height);
    const onto = rim.getContext("2d");
    onto.drawImage(edge, 0, 0);
    tint(onto, color);
    spread(context, rim, distance, x, y);
  }
}

/** The outline's width on a canvas of that size. */
export function lineWidth(width, height) {
  return Math.max(1.25, Math.max(width, height) / 700);
}
