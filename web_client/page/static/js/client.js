// The public API: its token, and prediction requests. Each keeps its own reply, so a late one cannot end up with
// another picture.
import { $ } from "./dom.js";
import { Prediction } from "./prediction.js";

const PARALLEL = 2; // the model works on one at a time anyway
const TILES = { tiles: 1024, max_detections: 1000 }; // more would make the list of objects slow
const LOW_THRESHOLD = "0.05"; // ask for nearly everything: the slider then filters in the browser
const TOKEN = "token";

const waiting = [];
let active = 0;

/** Keep the visitor's token, where the server asks for one, while the tab is open; changed() is called after it is typed. */
export function rememberToken(changed) {
  const field = $("token");
  if (!field) return;
  field.value = sessionStorage.getItem(TOKEN) ?? "";
  field.addEventListener("change", () => {
    sessionStorage.setItem(TOKEN, field.value.trim());
    changed();
  });
}

/** The JSON of a reply. Throws an Error with a message for people, and the server's code. */
export async function call(path, options = {}) {
  const token = $("token")?.value.trim();
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  const response = await fetch(`/api/v1/${path}`, { ...options, headers }).catch(() => {
    throw new Error("The page's server cannot be reached. Check the connection, then try again.");
  });
  const reply = await response.json().catch(() => null);
  if (response.ok && reply) return reply;
  const { message = "The server failed without giving a reason. Try again.", code } = reply?.error ?? {};
  throw Object.assign(new Error(message), { code });
}

/** A picture for one model version (null: no model is known yet). tiled: predict it in tiles. sent: {blob, width, height}. phase: waiting, working, done, failed, canceled. */
export function newRequest(picture, version) {
  return { picture, version, phase: "waiting", started: 0, elapsed: 0, sent: null, reply: null, prediction: null, error: null, controller: new AbortController() };
}

export const busy = ({ phase }) => phase === "waiting" || phase === "working";

/** Queue a request; changed(request) is called whenever its phase changes. */
export function start(request, changed) {
  waiting.push([request, changed]);
  next();
}

export function cancel(request, changed) {
  if (!busy(request)) return;
  request.phase = "canceled";
  request.controller.abort();
  changed(request);
}

function next() {
  while (active < PARALLEL && waiting.length) {
    const [request, changed] = waiting.shift();
    if (request.phase !== "waiting") continue; // canceled before its turn
    active++;
    predict(request, changed).finally(() => {
      active--;
      next();
    });
  }
}

async function predict(request, changed) {
  Object.assign(request, { phase: "working", started: performance.now() });
  changed(request);
  let outcome;
  try {
    const reply = await post(request, {});
    outcome = { phase: "done", reply, prediction: new Prediction(reply), elapsed: performance.now() - request.started };
  } catch (error) {
    outcome = { phase: "failed", error: error.message, code: error.code };
  }
  if (request.phase === "canceled") return;
  changed(Object.assign(request, outcome));
}

/** Let the server keep a picture for review. Throws an Error with a message for people. */
export async function sendForReview(request) {
  await post(request, { review: "wrong" });
  request.reviewed = true;
}

function post({ picture, version, sent, tiled, controller }, fields) {
  const body = new FormData();
  for (const [name, value] of Object.entries({ version, score_threshold: LOW_THRESHOLD, ...fields, ...(tiled && TILES) })) body.append(name, value);
  body.append("image", sent.blob, picture.name);
  return call("predict", { method: "POST", body, signal: controller.signal });
}
