// Every way a picture comes in: picker, camera, drop, paste, samples. And what is done to it before it is sent.
import { $, megabytes } from "./dom.js";
import { canvas } from "./render.js";

export const LONG_SIDE = 2048; // large photos are scaled to this; the model works on about 1333 pixels
const PREVIEW_SIDE = 2560;

/** Watch all the ways in and call take(files) with what came. */
export function watch(take) {
  for (const id of ["file", "camera", "more"]) {
    $(id).addEventListener("change", (event) => {
      const files = [...event.target.files];
      event.target.value = ""; // so that the same file can be chosen again
      if (files.length) take(files);
    });
  }
  for (const button of document.querySelectorAll("[data-sample]")) {
    button.addEventListener("click", async (event) => {
      event.preventDefault();
      const blob = await (await fetch(button.dataset.sample)).blob();
      take([new File([blob], `${button.value}.webp`, { type: blob.type })]);
    });
  }
  $("intake").addEventListener("submit", (event) => event.preventDefault());
  document.addEventListener("paste", (event) => {
    const files = [...(event.clipboardData?.files ?? [])];
    if (files.length) take(files);
  });
  let depth = 0; // dragenter and dragleave come for every element on the way
  const carriesFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
  document.addEventListener("dragenter", (event) => {
    if (carriesFiles(event) && ++depth) document.body.classList.add("over");
  });
  document.addEventListener("dragleave", (event) => {
    if (carriesFiles(event) && --depth <= 0) document.body.classList.remove("over");
  });
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    depth = 0;
    document.body.classList.remove("over");
    const files = [...(event.dataTransfer?.files ?? [])];
    if (files.length) take(files);
  });
}

/** Open a file as a picture: {preview, width, height}. Throws an Error with a sentence for people. */
export async function open(file) {
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

/** What to send for a file: itself, or a smaller JPEG of it. Throws if it stays too large. */
export async function prepare(file, { width, height }, mayScale) {
  const maxBytes = Number(document.body.dataset.maxBytes);
  const maxPixels = Number(document.body.dataset.maxPixels);
  if (mayScale && (Math.max(width, height) > LONG_SIDE || file.size > maxBytes)) {
    const bitmap = await createImageBitmap(file);
    const small = resized(bitmap, LONG_SIDE);
    bitmap.close();
    const blob = await new Promise((done) => small.toBlob(done, "image/jpeg", 0.92));
    return { blob, width: small.width, height: small.height };
  }
  const cure = "Let the page scale it (the switch at the end of the card), or choose a smaller one.";
  if (file.size > maxBytes) throw new Error(`This picture has ${megabytes(file.size)}; ${megabytes(maxBytes)} are taken. ${cure}`);
  if (width * height > maxPixels) {
    throw new Error(`This picture has ${width} × ${height} pixels; ${maxPixels / 1e6} million are taken. ${cure}`);
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
