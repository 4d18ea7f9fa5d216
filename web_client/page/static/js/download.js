// Files to download: images at the size of the photo, data at the size that was sent to the model.
import { canvas, lineWidth, paint, photoLayers, sprite } from "./render.js";
import { $, announce, make } from "./dom.js";
import { zip } from "./zip.js";

const buttons = document.querySelectorAll("[data-download]");

/** @param page {request(), requests(), classes(), settings: {threshold, opacity}, complain(message)} */
export function watchDownloads(page) {
  for (const button of buttons) {
    const kind = button.dataset.download;
    const makeFile = { cutouts, dataset }[kind] ?? view;
    button.addEventListener("click", async () => {
      button.disabled = true;
      try {
        save(...(await makeFile(page, kind)));
        announce("The file is ready.");
      } catch (error) {
        page.complain(`The file could not be made. ${error.message ?? ""}`);
      } finally {
        button.disabled = false;
      }
    });
  }
}

/** Let the browser save a file. */
function save(name, blob) {
  const link = make("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

export function showDownloads({ prediction, picture }) {
  for (const button of buttons) button.disabled = !prediction;
  $("download-note").textContent = prediction ? sizes(prediction, picture) : "Available when the masks are there.";
}

function sizes(prediction, picture) {
  const photo = `${picture.width} × ${picture.height}`, seen = `${prediction.width} × ${prediction.height}`;
  return photo === seen ? `Files have ${photo} pixels.` : `Images have ${photo} pixels, the data set ${seen}.`;
}

const stem = (request) => request.picture.name.replace(/\.[^.]*$/, "") || "picture";
const png = (drawn) => new Promise((done) => drawn.toBlob(done, "image/png"));

/** The whole photo, its visible instances, and their sprites at its size. Those are not cached: there may be hundreds. */
async function fullSize({ picture, prediction }, { threshold }) {
  const photo = await createImageBitmap(picture.file);
  const line = lineWidth(photo.width, photo.height);
  const spriteOf = (instance) => sprite(instance, prediction, photo.width / prediction.width, line);
  return { photo, visible: prediction.visible(threshold), spriteOf };
}

/** The overlay or the color splash as a PNG. */
async function view({ request, settings }, kind) {
  const { photo, visible, spriteOf } = await fullSize(request(), settings);
  const drawn = canvas(photo.width, photo.height);
  paint(drawn.getContext("2d"), photoLayers(photo, photo.width, photo.height), visible, spriteOf, { view: kind, opacity: settings.opacity });
  return [`${stem(request())}_${kind}.png`, await png(drawn)];
}

/** A PNG of each visible object, transparent around it. */
async function cutouts({ request, settings }) {
  const { photo, visible, spriteOf } = await fullSize(request(), settings);
  const files = [];
  for (const instance of visible) {
    const { x, y, fill } = spriteOf(instance);
    const context = fill.getContext("2d");
    context.globalCompositeOperation = "source-in";
    context.drawImage(photo, -x, -y);
    const label = instance.class_name.replace(/[^\w-]+/g, "_");
    const name = `${String(instance.id).padStart(3, "0")}_${label}_${Math.round(100 * instance.score)}.png`;
    files.push({ name, bytes: await bytesOf(await png(fill)) });
  }
  return [`${stem(request())}_cutouts.zip`, zip(files)];
}

const bytesOf = async (blob) => new Uint8Array(await blob.arrayBuffer());

const ENDINGS = { "image/jpeg": "jpg", "image/png": "png", "image/webp": "webp", "image/bmp": "bmp" }; // that `data import` reads

/** All pictures with their objects, as a COCO data set in Roboflow's layout; `maskrcnn data import` reads the zip. */
async function dataset({ requests, classes, settings }) {
  const files = [], images = [], annotations = [], taken = new Set();
  const names = classes(); // the models' classes come first among the categories
  for (const request of requests()) {
    const { prediction, picture, sent } = request;
    const photo = await photoFile(sent);
    const name = freeName(stem(request), ENDINGS[photo.type], taken);
    files.push({ name, bytes: await bytesOf(photo) });
    images.push({ id: images.length + 1, file_name: name, width: prediction.width, height: prediction.height, flagged: picture.flagged });
    for (const { class_name: label, box: [x1, y1, x2, y2], area, mask, score } of prediction.visible(settings.threshold)) {
      if (!names.includes(label)) names.push(label);
      annotations.push({
        id: annotations.length + 1, image_id: images.length, category_id: names.indexOf(label) + 1,
        bbox: [x1, y1, x2 - x1, y2 - y1], area, iscrowd: 0, segmentation: mask, score,
      });
    }
  }
  const document = { images, annotations, categories: names.map((name, index) => ({ id: index + 1, name })) };
  files.push({ name: "_annotations.coco.json", bytes: new TextEncoder().encode(JSON.stringify(document)) });
  return ["dataset.zip", zip(files)];
}

/** What was sent, in a format that a data set may have. */
async function photoFile({ blob, width, height }) {
  if (blob.type in ENDINGS) return blob;
  const drawn = canvas(width, height);
  drawn.getContext("2d").drawImage(await createImageBitmap(blob), 0, 0);
  return png(drawn);
}

function freeName(title, ending, taken) {
  let name = `${title}.${ending}`;
  for (let number = 2; taken.has(name.toLowerCase()); number++) name = `${title}_${number}.${ending}`;
  taken.add(name.toLowerCase());
  return name;
}
