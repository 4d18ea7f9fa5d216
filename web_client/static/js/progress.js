// The small box over the picture that says how far a run is, or what went wrong, and offers the way on.
import { busy } from "./client.js";
import { make, seconds } from "./dom.js";

export function stateBox(act) {
  const spin = make("span", { className: "spin", ariaHidden: "true" });
  const text = make("p");
  const progress = make("progress", { max: 1, ariaLabel: "Upload" });
  const button = (label, name) => make("button", { type: "button", textContent: label, onclick: () => act[name](shown) });
  const buttons = { cancel: button("Cancel", "cancel"), retry: button("Try again", "retry"), remove: button("Remove", "remove") };
  const element = make("div", { className: "state", hidden: true }, spin, text, ...Object.values(buttons), progress);
  let shown = null;

  return {
    element,
    show(run) {
      shown = run;
      const working = busy(run);
      const bad = run.phase === "failed";
      element.hidden = run.phase === "done";
      element.classList.toggle("bad", bad);
      spin.hidden = run.phase !== "thinking";
      progress.hidden = run.phase !== "uploading";
      progress.value = run.progress;
      buttons.cancel.hidden = !working;
      buttons.retry.hidden = buttons.remove.hidden = working;
      text.textContent = sentence(run);
    },
    /** Bring the elapsed time up to date. */
    tick() {
      if (shown && busy(shown)) text.textContent = sentence(shown);
    },
  };
}

export function sentence(run) {
  const elapsed = seconds(performance.now() - run.started);
  if (run.phase === "waiting") return "Waiting for its turn …";
  if (run.phase === "uploading") return `Sending, ${Math.round(100 * run.progress)} %`;
  if (run.phase === "thinking") return `Looking for objects, ${elapsed}`;
  if (run.phase === "cancelled") return "Cancelled.";
  return run.error ?? "";
}
