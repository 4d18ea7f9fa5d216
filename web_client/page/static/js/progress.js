// The box over the picture: how long a request has been running, or what went wrong, and the buttons for it.
import { busy } from "./client.js";
import { make, seconds } from "./dom.js";

/** @param actions {cancel(request), retry(request), remove(picture)} */
export function progressBox(actions) {
  let shown = null;
  const button = (textContent, onclick) => make("button", { type: "button", textContent, onclick });
  const spin = make("span", { className: "spinner", ariaHidden: "true" });
  const text = make("p");
  const cancel = button("Cancel", () => actions.cancel(shown));
  const retry = button("Try again", () => actions.retry(shown));
  const remove = button("Remove", () => actions.remove(shown.picture));
  const element = make("div", { className: "progress", hidden: true }, spin, text, cancel, retry, remove);
  /** Show a request; call it again to update the elapsed time. */
  const show = (request) => {
    shown = request;
    element.hidden = request.phase === "done";
    element.classList.toggle("bad", request.phase === "failed");
    spin.hidden = request.phase !== "working";
    cancel.hidden = !busy(request) || request.version === null;
    retry.hidden = busy(request);
    remove.hidden = !cancel.hidden;
    text.textContent = sentence(request);
  };
  return { element, show };
}

function sentence({ phase, version, started, error }) {
  if (version === null) return "Waiting for a model …";
  if (phase === "working") return `Looking for objects, ${seconds(performance.now() - started)}`;
  return { waiting: "Waiting …", canceled: "Canceled.", failed: error }[phase] ?? "";
}
