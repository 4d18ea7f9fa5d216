// A picture on its way to the model and back. Each run keeps its own answer, so that no late one can land elsewhere.
import { Scene } from "./prediction.js";

const AT_ONCE = 2; // the model takes one after the other anyway
export const LOW_THRESHOLD = "0.05"; // ask for nearly everything: the slider then filters here, both ways

const waiting = [];
let active = 0;

/** A picture together with one model version. phase: waiting, uploading, thinking, done, failed, cancelled. */
export function newRun(shot, version) {
  return { shot, version, phase: "waiting", progress: 0, started: 0, elapsed: 0, reply: null, scene: null, error: null, xhr: null };
}

export const busy = (run) => ["waiting", "uploading", "thinking"].includes(run.phase);

/** Queue a run; changed(run) is called whenever its phase or progress changes. */
export function start(run, changed) {
  Object.assign(run, { phase: "waiting", progress: 0, error: null, started: performance.now() });
  waiting.push([run, changed]);
  changed(run);
  next();
}

export function cancel(run, changed) {
  if (!busy(run)) return;
  run.phase = "cancelled";
  run.xhr?.abort();
  changed(run);
}

function next() {
  while (active < AT_ONCE && waiting.length) {
    const [run, changed] = waiting.shift();
    if (run.phase !== "waiting") continue; // cancelled before its turn
    active++;
    post(run, changed).finally(() => {
      active--;
      changed(run);
      next();
    });
  }
}

/** The form fields beside the picture; also what "copy as curl" writes. */
export function fields(run) {
  return { score_threshold: LOW_THRESHOLD, ...(run.version && { version: run.version }) };
}

async function post(run, changed) {
  const form = new FormData();
  for (const [name, value] of Object.entries(fields(run))) form.append(name, value);
  form.append("image", run.shot.sent.blob, run.shot.name);
  const phase = (name) => {
    run.phase = name;
    changed(run);
  };
  run.started = performance.now();
  phase("uploading");
  try {
    const { status, text } = await request(run, form, phase);
    if (run.phase === "cancelled") return;
    run.elapsed = performance.now() - run.started;
    const reply = parse(text);
    if (status !== 200) {
      run.code = reply?.error?.code;
      throw new Error(reply?.error?.message ?? "The server failed without saying why. Try again.");
    }
    if (!reply?.instances) throw new Error("The model answered something we do not understand. Try again.");
    run.reply = reply;
    run.scene = new Scene(reply);
    run.phase = "done";
  } catch (error) {
    if (run.phase === "cancelled") return;
    run.error = error.message;
    run.phase = "failed";
  }
}

// XMLHttpRequest and not fetch: only it tells how far an upload is.
function request(run, form, phase) {
  return new Promise((done, failed) => {
    const xhr = (run.xhr = new XMLHttpRequest());
    xhr.open("POST", "/api/predict");
    xhr.timeout = 150000;
    xhr.upload.onprogress = (event) => {
      run.progress = event.lengthComputable ? event.loaded / event.total : 0;
      if (run.phase === "uploading") phase("uploading");
    };
    xhr.upload.onload = () => run.phase === "uploading" && phase("thinking");
    xhr.onload = () => done({ status: xhr.status, text: xhr.responseText });
    xhr.onabort = () => done({ status: 0, text: "" });
    xhr.ontimeout = () => failed(new Error("No answer came for a long time. Try again, or send a smaller picture."));
    xhr.onerror = () => failed(new Error("The page's server cannot be reached. Check the connection, then try again."));
    xhr.send(form);
  });
}

function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}
