// Files to download: images at the size of the photo, data at the size that was sent to the model.
import { canvas, lineWidth, paint, photoLayers, sprite } from "./render.js";
import { $, announce, make } from "./dom.js";
import { zip } from "./zip.js";

const stem = (request) => request.picture.name.replace(/\.[^.]*$/, "") || "picture";

const buttons = document.querySelectorAll("[data-download]");

/** @param page {request(), requests(), classes(), settings: {threshold, opacity}, complain(message)} */
export function watchDownloads(page) {
  for (const button of buttons) {
    button.addEventListener("click", async () => {
      button.disabled = true;
      try {
        save(await makeFile(button.dataset.download, page));
        announce("The file is ready.");
      } catch (error) {
        page.complain(`The file could not be made. ${error.message ?? ""}`);
      } finally {
        button.disabled = false;
      }
    });
  }
}

export function showDownloads({ prediction, picture }) {
  for (const button of buttons) button.disabled = !prediction;
  $("download-note").textContent = prediction ? sizes(prediction, picture) : "Available when the masks are there.";
}

function sizes(prediction, picture) {
  const photo = `${picture.width} × ${picture.height}`, seen = `${prediction.width} × ${prediction.height}`;
  return photo === seen ? `Files have ${photo} pixels.` : `Images have ${photo} pixels, the data set ${seen}.`;
}

async function makeFile(kind, { request, requests, classes, settings }) {
  if (kind === "dataset") return { name: "dataset.zip", blob: await dataset(requests(), classes(), settings) };
  const maker = kind === "cutouts" ? cutouts : view;
  const [ending, blob] = await maker(request(), settings, kind);
  return { name: `${stem(request())}_${ending}`, blob };
}

/** Let the browser save a file. */
function save({ name, blob }) {
  const link = make("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

const png = (drawn) => new Promise((done) => drawn.toBlob(done, "image/png"));

/** The whole photo, and a function that makes sprites at its size. They are not cached: there may be hundreds. */
async function fullSize(request) {
  const photo = await createImageBitmap(request.picture.file);
  const line = lineWidth(photo.width, photo.height);
  return { photo, spriteOf: (instance) => sprite(instance, request.prediction, photo.width / request.prediction.width, line) };
}

async function view(request, { threshold, opacity }, kind) {
  const { photo, spriteOf } = await fullSize(request);
  const drawn = canvas(photo.width, photo.height);
  paint(drawn.getContext("2d"), photoLayers(photo), request.prediction.visible(threshold), spriteOf, { view: kind, opacity });
  return [`${kind}.png`, await png(drawn)];
}

/** A PNG of each visible object, transparent around it. */
async function cutouts(request, { threshold }) {
  const { photo, spriteOf } = await fullSize(request);
  const files = [];
  for (const instance of request.prediction.visible(threshold)) {
    const { x, y, fill } = spriteOf(instance);
    const context = fill.getContext("2d");
    context.globalCompositeOperation = "source-in";
    context.drawImage(photo, -x, -y);
    const blob = await png(fill);
    const name = `${String(instance.id).padStart(3, "0")}_${instance.class_name.replace(/[^\w-]+/g, "_")}_${Math.round(100 * instance.score)}.png`;
    files.push({ name, bytes: new Uint8Array(await blob.arrayBuffer()) });
  }
  return ["cutouts.zip", zip(files)];
}

const ENDINGS = { "image/jpeg": "jpg", "image/png": "png", "image/webp": "webp", "image/bmp": "bmp" }; // that `data import` reads

/**
 * All pictures with their objects, as a COCO data set in Roboflow's layout; `maskrcnn data import` reads the zip.
 * @param requests those with a prediction, one for each picture
 * @param classes the models' classes, which come first among the categories
 */
async function dataset(requests, classes, { threshold }) {
  const files = [], images = [], annotations = [], names = [...classes], taken = new Set();
  for (const request of requests) {
    const { prediction, picture, sent } = request;
    const photo = await photoFile(sent);
    const name = freeName(stem(request), ENDINGS[photo.type], taken);
    files.push({ name, bytes: new Uint8Array(await photo.arrayBuffer()) });
    images.push({ id: images.length + 1, file_name: name, width: prediction.width, height: prediction.height, flagged: picture.flagged });
    for (const { class_name: label, box: [x1, y1, x2, y2], area, mask, score } of prediction.visible(threshold)) {
      if (!names.includes(label)) names.push(label);
      annotations.push({
        id: annotations.length + 1, image_id: images.length, category_id: names.indexOf(label) + 1,
        bbox: [x1, y1, x2 - x1, y2 - y1], area, iscrowd: 0, segmentation: mask, score,
      });
    }
  }
  const document = { images, annotations, categories: names.map((name, index) => ({ id: index + 1, name })) };
  files.push({ name: "_annotations.coco.json", bytes: new TextEncoder().encode(JSON.stringify(document)) });
  return zip(files);
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
