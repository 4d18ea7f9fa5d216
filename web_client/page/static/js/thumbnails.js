// The row of pictures below the viewer.
import { busy } from "./client.js";
import { $, make } from "./dom.js";

/** @param actions {select(picture), remove(picture)} */
export function showThumbnails(pictures, current, requestOf, threshold, actions) {
  const list = $("thumbnails");
  const tiles = new Map([...list.children].map((item) => [item.picture, item]));
  list.replaceChildren(...pictures.map((picture) => tiles.get(picture) ?? tile(picture, actions)));
  for (const item of list.children) {
    const request = requestOf(item.picture);
    const [button] = item.children;
    button.setAttribute("aria-current", String(item.picture === current));
    const [mark, words] = badge(request, threshold);
    button.lastChild.className = mark === "" ? "spinner" : "";
    button.lastChild.textContent = mark;
    item.classList.toggle("flagged", item.picture.flagged);
    button.setAttribute("aria-label", `${item.picture.name}: ${words}${item.picture.flagged ? ", flagged as wrong" : ""}`);
  }
}

function badge(request, threshold) {
  if (busy(request)) return ["", "working"];
  if (request.phase === "failed") return ["!", "failed"];
  if (request.phase === "canceled") return ["×", "canceled"];
  const count = String(request.prediction.visible(threshold).length);
  return [count, `${count} found`];
}

function tile(picture, actions) {
  const scale = 176 / picture.preview.width;
  const thumb = make("canvas", { width: 176, height: Math.max(1, Math.round(picture.preview.height * scale)) });
  thumb.getContext("2d").drawImage(picture.preview, 0, 0, thumb.width, thumb.height);
  const choose = make("button", { type: "button", className: "thumbnail", onclick: () => actions.select(picture) }, thumb, make("span"));
  const drop = make("button", { type: "button", className: "remove-thumbnail", textContent: "×", ariaLabel: `Remove ${picture.name}`, onclick: () => actions.remove(picture) });
  const item = make("li", {}, choose, drop);
  item.picture = picture;
  return item;
}
