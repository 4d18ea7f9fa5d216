// Pictures from the file picker, the camera, drag and drop, the clipboard and the samples; and scaling before the upload.
import { $, megabytes } from "./dom.js";
import { canvas } from "./render.js";

export const LONG_SIDE = 2048; // of a scaled photo: masks come back at this size, whatever the input size of the model
const PREVIEW_SIDE = 2560;

/** Call add(files) for pictures from any source. */
export function watchSources(add) {
  const take = (files) => files.length && add([...files]);
  for (const id of ["file", "camera", "add"]) {
    $(id).addEventListener("change", ({ target }) => {
      take(target.files);
      target.value = ""; // allows choosing the same file again
    });
  }
  for (const button of document.querySelectorAll("[data-sample]")) {
    button.addEventListener("click", async (event) => {
      event.preventDefault();
      const blob = await (await fetch(button.dataset.sample)).blob();
      add([new File([blob], `${button.value}.webp`, { type: blob.type })]);
    });
  }
  $("upload").addEventListener("submit", (event) => event.preventDefault());
  document.addEventListener("paste", (event) => take(event.clipboardData.files));
  const dragging = (value) => document.body.classList.toggle("dragging", value);
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    dragging(event.dataTransfer.types.includes("Files"));
  });
  document.addEventListener("dragleave", (event) => event.relatedTarget ?? dragging(false)); // null: it left the window
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    dragging(false);
    take(event.dataTransfer.files);
  });
}

/** Decode a file: {preview, width, height}. Throws an Error with a message for people. */
export async function openPicture(file) {
  const name = `“${file.name}”`;
  if (file.size === 0) throw new Error(`${name} is empty (0 bytes). Choose another file.`);
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    throw new Error(`${name} is not a picture that this browser can open. Choose a JPEG, PNG or WebP.`);
  }
  const { width, height } = bitmap;
  const preview = resized(bitmap, PREVIEW_SIDE);
  bitmap.close();
  return { preview, width, height };
}

/** What to send: the file itself, or a smaller JPEG of it. Throws if it is above the limits of the server or the model. */
export async function prepareUpload(file, { width, height }, mayScale, tiled, limits) {
  const { maxBytes: bytes, maxPixels: pixels, maxTiledPixels: tiledPixels } = document.body.dataset;
  const maxBytes = Math.min(bytes, limits[tiled ? "max_tiled_bytes" : "max_image_bytes"] ?? Infinity);
  const maxPixels = Math.min(tiled ? tiledPixels : pixels, limits[tiled ? "max_tiled_pixels" : "max_image_pixels"] ?? Infinity);
  if (mayScale && (Math.max(width, height) > LONG_SIDE || file.size > maxBytes)) {
    const bitmap = await createImageBitmap(file);
    const small = resized(bitmap, LONG_SIDE);
    bitmap.close();
    const blob = await new Promise((done) => small.toBlob(done, "image/jpeg", 0.92));
    return { blob, width: small.width, height: small.height };
  }
  const cure = `Turn ${tiled ? "off tiles" : "on scaling"} at the end of the sidebar, or choose a smaller one.`;
  if (file.size > maxBytes) throw new Error(`This picture has ${megabytes(file.size)}; the limit is ${megabytes(maxBytes)}. ${cure}`);
  if (width * height > maxPixels) {
    throw new Error(`This picture has ${width} × ${height} pixels; the limit is ${maxPixels / 1e6} million. ${cure}`);
  }
  return { blob: file, width, height };
}

function resized(bitmap, side) {
  const scale = Math.min(1, side / Math.max(bitmap.width, bitmap.height));
  const made = canvas(bitmap.width * scale, bitmap.height * scale);
  const context = made.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, made.width, made.height);
  return made;
}
