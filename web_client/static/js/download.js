// Files to take away. Pictures come at the photo's own size, data at the size that the model saw.
import { canvas, lineWidth, paint, photos, sprite } from "./render.js";
import { grayPng } from "./png.js";
import { fields } from "./client.js";
import { zip } from "./zip.js";

const stem = (run) => run.shot.name.replace(/\.[^.]*$/, "") || "picture";

/** Make one of the files. @param settings {threshold, opacity} @returns {name, blob} */
export async function takeAway(kind, run, settings) {
  const make = { overlay: view, splash: view, labels, cutouts, coco }[kind];
  const [ending, blob] = await make(run, settings, kind);
  return { name: `${stem(run)}_${ending}`, blob };
}

/** Hand a file to the person. */
export function save({ name, blob }) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

const png = (drawn) => new Promise((done) => drawn.toBlob(done, "image/png"));

/** The whole photo, and a function that makes sprites for it. Sprites are made and forgotten: there may be hundreds. */
async function fullSize(run) {
  const photo = await createImageBitmap(run.shot.file);
  const line = lineWidth(photo.width, photo.height);
  return { photo, spriteOf: (instance) => sprite(instance, run.scene, photo.width / run.scene.width, line) };
}

async function view(run, { threshold, opacity }, kind) {
  const { photo, spriteOf } = await fullSize(run);
  const drawn = canvas(photo.width, photo.height);
  const layers = photos(photo, photo.width, photo.height);
  paint(drawn.getContext("2d"), layers, run.scene.visible(threshold), spriteOf, { view: kind, opacity });
  return [`${kind}.png`, await png(drawn)];
}

/** 0 is background, id + 1 an object; where objects overlap, the surest one. */
async function labels({ scene }, { threshold }) {
  const { owner, height, width, instances } = scene;
  const reach = scene.reach(threshold);
  const value = Uint16Array.from({ length: instances.length + 1 }, (_, i) => (i && i <= reach ? instances[i - 1].id + 1 : 0));
  const depth = value.some((each) => each > 255) ? 16 : 8;
  return ["labels.png", await grayPng(width, height, depth, (x, y) => value[owner[x * height + y]])];
}

/** Each visible object by itself, transparent around it. */
async function cutouts(run, { threshold }) {
  const { photo, spriteOf } = await fullSize(run);
  const files = [];
  for (const instance of run.scene.visible(threshold)) {
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

/** A data set of one picture, as pycocotools' COCO() loads it; category ids begin at 1. */
async function coco({ scene, shot, reply }, { threshold }) {
  const visible = scene.visible(threshold);
  const names = new Map(visible.map((instance) => [instance.class_id + 1, instance.class_name]));
  const document = {
    info: { description: `Masks of ${reply.model.name}, version ${reply.model.version}`, weights_sha256: reply.model.weights_sha256 },
    images: [{ id: 1, file_name: shot.name, width: scene.width, height: scene.height }],
    categories: [...names].sort(([a], [b]) => a - b).map(([id, name]) => ({ id, name })),
    annotations: visible.map(({ id, class_id: classId, box: [x1, y1, x2, y2], area, mask, score }) => ({
      id: id + 1, image_id: 1, category_id: classId + 1, bbox: [x1, y1, x2 - x1, y2 - y1], area, iscrowd: 0, segmentation: mask, score,
    })),
  };
  return ["coco.json", new Blob([JSON.stringify(document)], { type: "application/json" })];
}

/** The same request for a shell. */
export function curl(run) {
  const quote = (text) => `'${text.replaceAll("'", "'\\''")}'`;
  const file = run.shot.name.replace(/[\\"]/g, "\\$&"); // curl reads "…" within -F by itself
  const parts = [`image=@"${file}"`, ...Object.entries(fields(run)).map(([name, value]) => `${name}=${value}`)];
  return `curl ${parts.map((part) => `-F ${quote(part)}`).join(" ")} ${quote(new URL("/api/predict", location.href).href)}`;
}
