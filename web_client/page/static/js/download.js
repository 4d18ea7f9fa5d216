// Files to download: images at the size of the photo, data at the size that was sent to the model.
import { canvas, lineWidth, paint, photoLayers, sprite } from "./render.js";
import { form, formFields } from "./client.js";
import { authorization } from "./token.js";
import { zip } from "./zip.js";

const stem = (request) => request.picture.name.replace(/\.[^.]*$/, "") || "picture";

/** Make one of the files. @param settings {threshold, opacity} @returns {name, blob} */
export async function makeFile(kind, request, settings) {
  const make = { overlay: view, splash: view, labels, cutouts, coco }[kind];
  const [ending, blob] = await make(request, settings, kind);
  return { name: `${stem(request)}_${ending}`, blob };
}

/** Let the browser save a file. */
export function save({ name, blob }) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
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
  const layers = photoLayers(photo, photo.width, photo.height);
  paint(drawn.getContext("2d"), layers, request.prediction.visible(threshold), spriteOf, { view: kind, opacity });
  return [`${kind}.png`, await png(drawn)];
}

/** The model's own label map: 0 is background, id + 1 an object. It knows the threshold, not which objects are hidden. */
async function labels({ picture, version }, { threshold }) {
  const body = form(picture, { version, score_threshold: threshold, output: "labels" });
  const signal = AbortSignal.timeout(Number(document.body.dataset.timeoutMs));
  const response = await fetch("/api/v1/predict", { method: "POST", body, signal, headers: authorization() });
  if (!response.ok) throw new Error((await response.json()).error.message);
  return ["labels.png", await response.blob()];
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

/** A COCO data set of one picture, for pycocotools' COCO(); category ids start at 1. */
async function coco({ prediction, picture, reply }, { threshold }) {
  const visible = prediction.visible(threshold);
  const names = new Map(visible.map((instance) => [instance.class_id + 1, instance.class_name]));
  const document = {
    info: { description: `Masks of ${reply.model.name}, version ${reply.model.version}`, weights_sha256: reply.model.weights_sha256 },
    images: [{ id: 1, file_name: picture.name, width: prediction.width, height: prediction.height }],
    categories: [...names].sort(([a], [b]) => a - b).map(([id, name]) => ({ id, name })),
    annotations: visible.map(({ id, class_id: classId, box: [x1, y1, x2, y2], area, mask, score }) => ({
      id: id + 1, image_id: 1, category_id: classId + 1, bbox: [x1, y1, x2 - x1, y2 - y1], area, iscrowd: 0, segmentation: mask, score,
    })),
  };
  return ["coco.json", new Blob([JSON.stringify(document)], { type: "application/json" })];
}

/** The same request as a shell command. */
export function curl(request) {
  const quote = (text) => `'${text.replaceAll("'", "'\\''")}'`;
  const file = request.picture.name.replace(/[\\"]/g, "\\$&"); // curl unquotes "…" in -F itself
  const parts = [`image=@"${file}"`, ...Object.entries(formFields(request)).map(([name, value]) => `${name}=${value}`)];
  const token = authorization().Authorization ? ' -H "Authorization: Bearer $TOKEN"' : "";
  return `curl${token} ${parts.map((part) => `-F ${quote(part)}`).join(" ")} ${quote(new URL("/api/v1/predict", location.href).href)}`;
}
