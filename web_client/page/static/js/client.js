// Prediction requests. Each keeps its own response, so a late one cannot end up with another picture.
import { Prediction } from "./prediction.js";
import { authorization } from "./token.js";

const PARALLEL = 2; // the model works on one at a time anyway
const TILES = { tiles: 1024, max_detections: 1000 }; // more would make the list of objects slow
const LOW_THRESHOLD = "0.05"; // ask for nearly everything: the slider then filters in the browser

const waiting = [];
let active = 0;

/** A picture for one model version (null: no model is known yet). tiled: predict it in tiles. sent: {blob, width, height}. phase: waiting, uploading, thinking, done, failed, canceled. */
export function newRequest(picture, version) {
  return { picture, version, phase: "waiting", progress: 0, started: 0, elapsed: 0, sent: null, reply: null, prediction: null, error: null, xhr: null };
}

export const busy = ({ phase }) => ["waiting", "uploading", "thinking"].includes(phase);

/** Queue a request; changed(request) is called whenever its phase or progress changes. */
export function start(request, changed) {
  waiting.push([request, changed]);
  next();
}

export function cancel(request, changed) {
  if (!busy(request)) return;
  request.phase = "canceled";
  request.xhr?.abort();
  changed(request);
}

function next() {
  while (active < PARALLEL && waiting.length) {
    const [request, changed] = waiting.shift();
    if (request.phase !== "waiting") continue; // canceled before its turn
    active++;
    predict(request, changed).finally(() => {
      active--;
      changed(request);
      next();
    });
  }
}

/** A form for /api/v1/predict. */
function form({ picture, version, sent, tiled }, fields) {
  const form = new FormData();
  for (const [name, value] of Object.entries({ version, ...fields, ...(tiled && TILES) })) form.append(name, value);
  form.append("image", sent.blob, picture.name);
  return form;
}

/** Let the server keep a picture for review. Throws an Error with a message for people. */
export async function sendForReview(request) {
  const body = form(request, { score_threshold: LOW_THRESHOLD, review: "wrong" });
  const response = await fetch("/api/v1/predict", { method: "POST", body, headers: authorization() });
  if (!response.ok) throw new Error((await response.json()).error.message);
  request.reviewed = true;
}

async function predict(request, changed) {
  const enter = (phase) => {
    request.phase = phase;
    changed(request);
  };
  request.started = performance.now();
  enter("uploading");
  try {
    const { status, text } = await post(request, enter);
    if (request.phase === "canceled") return;
    request.elapsed = performance.now() - request.started;
    const reply = parse(text);
    if (status !== 200) {
      request.code = reply?.error?.code;
      throw new Error(reply?.error?.message ?? "The server failed without giving a reason. Try again.");
    }
    if (!reply?.instances) throw new Error("The model sent an unexpected answer. Try again.");
    request.reply = reply;
    request.prediction = new Prediction(reply);
    request.phase = "done";
  } catch (error) {
    if (request.phase === "canceled") return;
    request.error = error.message;
    request.phase = "failed";
  }
}

// XMLHttpRequest, because fetch reports no upload progress.
function post(request, enter) {
  return new Promise((done, failed) => {
    const xhr = (request.xhr = new XMLHttpRequest());
    xhr.open("POST", "/api/v1/predict");
    for (const [name, value] of Object.entries(authorization())) xhr.setRequestHeader(name, value);
    xhr.upload.onprogress = (event) => {
      request.progress = event.lengthComputable ? event.loaded / event.total : 0;
      if (request.phase === "uploading") enter("uploading");
    };
    xhr.upload.onload = () => {
      // The time limit is for the answer: a slow line may take as long as it needs for the upload.
      xhr.timeout = performance.now() - request.started + Number(document.body.dataset.timeoutMs);
      if (request.phase === "uploading") enter("thinking");
    };
    xhr.onload = () => done({ status: xhr.status, text: xhr.responseText });
    xhr.onabort = () => done({ status: 0, text: "" });
    xhr.ontimeout = () => failed(new Error("There was no answer for a long time. Try again, or send a smaller picture."));
    xhr.onerror = () => failed(new Error("The page's server cannot be reached. Check the connection, then try again."));
    xhr.send(form(request, { score_threshold: LOW_THRESHOLD }));
  });
}

function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}
