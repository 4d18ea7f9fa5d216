// The box over the picture: how far a request is, or what went wrong, and the buttons for it.
import { busy } from "./client.js";
import { make, seconds } from "./dom.js";

export function progressBox(actions) {
  const spin = make("span", { className: "spinner", ariaHidden: "true" });
  const text = make("p");
  const progress = make("progress", { max: 1, ariaLabel: "Upload" });
  const button = (textContent, onclick) => make("button", { type: "button", textContent, onclick });
  const buttons = {
    cancel: button("Cancel", () => actions.cancel(shown)),
    retry: button("Try again", () => actions.retry(shown)),
    remove: button("Remove", () => actions.remove(shown.picture)),
  };
  const element = make("div", { className: "progress", hidden: true }, spin, text, ...Object.values(buttons), progress);
  let shown = null;

  return {
    element,
    show(request) {
      shown = request;
      const working = busy(request);
      const bad = request.phase === "failed";
      element.hidden = request.phase === "done";
      element.classList.toggle("bad", bad);
      spin.hidden = request.phase !== "thinking";
      progress.hidden = request.phase !== "uploading";
      progress.value = request.progress;
      buttons.cancel.hidden = !working || request.version === null;
      buttons.retry.hidden = working;
      buttons.remove.hidden = !buttons.cancel.hidden;
      text.textContent = sentence(request);
    },
    /** Update the elapsed time. */
    tick() {
      if (shown && busy(shown)) text.textContent = sentence(shown);
    },
  };
}

function sentence(request) {
  const elapsed = seconds(performance.now() - request.started);
  if (request.version === null) return "Waiting for a model …";
  if (request.phase === "waiting") return "Waiting …";
  if (request.phase === "uploading") return `Uploading, ${Math.round(100 * request.progress)} %`;
  if (request.phase === "thinking") return `Looking for objects, ${elapsed}`;
  if (request.phase === "canceled") return "Canceled.";
  return request.error ?? "";
}
