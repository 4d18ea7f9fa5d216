// The strip of pictures below the mat.
import { busy } from "./client.js";
import { $, make } from "./dom.js";

/** @param act {select(shot), drop(shot)} */
export function showStrip(shots, current, runOf, threshold, act) {
  const list = $("strip");
  const tiles = new Map([...list.children].map((item) => [item.shot, item]));
  list.replaceChildren(...shots.map((shot) => tiles.get(shot) ?? tile(shot, act)));
  for (const item of list.children) {
    const run = runOf(item.shot);
    const [button] = item.children;
    button.setAttribute("aria-current", String(item.shot === current));
    const [mark, words] = badge(run, threshold);
    button.lastChild.className = mark === "" ? "spin" : "";
    button.lastChild.textContent = mark;
    button.setAttribute("aria-label", `${item.shot.name}: ${words}`);
  }
}

function badge(run, threshold) {
  if (busy(run)) return ["", "working"];
  if (run.phase === "failed") return ["!", "failed"];
  if (run.phase === "cancelled") return ["×", "cancelled"];
  const count = String(run.scene.visible(threshold).length);
  return [count, `${count} found`];
}

function tile(shot, act) {
  const scale = 176 / shot.preview.width;
  const thumb = make("canvas", { width: 176, height: Math.max(1, Math.round(shot.preview.height * scale)) });
  thumb.getContext("2d").drawImage(shot.preview, 0, 0, thumb.width, thumb.height);
  const choose = make("button", { type: "button", className: "shot", onclick: () => act.select(shot) }, thumb, make("span"));
  const drop = make("button", { type: "button", className: "drop-shot", textContent: "×", ariaLabel: `Remove ${shot.name}`, onclick: () => act.drop(shot) });
  const item = make("li", {}, choose, drop);
  item.shot = shot;
  return item;
}
