// The model versions that are ready, and the two lists to choose from.
import { call } from "./client.js";
import { $, make } from "./dom.js";

const RETRY_MS = 5000;

let timer = 0;
let pending = false;

/** Fetch the versions and call found(models); until one is ready, keep trying. Calls in between add no second loop. */
export async function findModels(found) {
  if (pending) return;
  clearTimeout(timer);
  if ($("token") && !$("token").value) {
    showStatus("Enter your token to begin.", "");
    return;
  }
  pending = true;
  try {
    const { models } = await call("models");
    if (!models.length) throw new Error("No model is ready yet. This page keeps checking.");
    showStatus(models.length === 1 ? `${models[0].version} is ready` : `${models.length} models are ready`, "good");
    found(models);
  } catch (error) {
    const refused = error.code === "token_required";
    showStatus(refused ? "This token is not valid." : error.message, "bad");
    // another try with the same token would only count as another failure
    if (!refused) timer = setTimeout(findModels, RETRY_MS, found);
  } finally {
    pending = false;
  }
}

function showStatus(text, state) {
  $("service-status").textContent = text;
  $("service-status").dataset.state = state;
}

function label({ version, backbone, segm_AP: ap }) {
  const named = version.startsWith(backbone) ? version : `${version} (${backbone})`;
  return ap === null ? named : `${named} · AP ${ap.toFixed(1)}`;
}

/** Fill both lists; comparing needs a second model. */
export function fillModels(models, version, other) {
  const options = () => models.map((model) => make("option", { value: model.version, textContent: label(model) }));
  $("version").replaceChildren(...options());
  $("version").value = version;
  $("other").replaceChildren(...options().filter((option) => option.value !== version));
  if (other && other !== version) $("other").value = other;
  $("compare-row").hidden = models.length < 2;
  $("other").hidden = models.length < 2 || !$("compare").checked;
}
