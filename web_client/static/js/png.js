// A gray PNG with exact values. A canvas could only write colours, and 8 bits are too few for 256 objects and more.
import { crc32 } from "./crc.js";

/** @param at (x, y) → value. depth: 8 or 16 bits. */
export async function grayPng(width, height, depth, at) {
  const step = depth / 8;
  const stride = 1 + width * step; // each row begins with its filter, 0: none
  const rows = new Uint8Array(stride * height);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const value = at(x, y);
      const offset = y * stride + 1 + x * step;
      if (depth === 16) rows[offset] = value >> 8;
      rows[offset + step - 1] = value;
    }
  }
  const zlib = new Blob([rows]).stream().pipeThrough(new CompressionStream("deflate"));
  const data = new Uint8Array(await new Response(zlib).arrayBuffer());
  const header = new Uint8Array(13);
  const view = new DataView(header.buffer);
  view.setUint32(0, width);
  view.setUint32(4, height);
  header[8] = depth; // then colour type 0 (gray), and no choice for the rest
  const signature = Uint8Array.of(137, 80, 78, 71, 13, 10, 26, 10);
  return new Blob([signature, chunk("IHDR", header), chunk("IDAT", data), chunk("IEND", new Uint8Array())], { type: "image/png" });
}

function chunk(name, data) {
  const bytes = new Uint8Array(12 + data.length);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, data.length);
  bytes.set(new TextEncoder().encode(name), 4);
  bytes.set(data, 8);
  view.setUint32(8 + data.length, crc32(bytes.subarray(4, 8 + data.length)));
  return bytes;
}
