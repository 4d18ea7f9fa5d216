// The model versions that are ready, and the two lists to choose from.
import { $, make } from "./dom.js";
import { authorization } from "./token.js";

const RETRY_MS = 5000;

let timer = 0;
let pending = false;

/** Fetch the versions and call found(models); until one is ready, keep trying. Calls in between add no second loop. */
export async function findModels(found) {
  if (pending) return;
  clearTimeout(timer);
  const status = $("service-status");
  if ($("token") && !$("token").value) {
    status.textContent = "Enter your token to begin.";
    return;
  }
  pending = true;
  try {
    const response = await fetch("/api/v1/models", { headers: authorization() });
    const { models, error } = await response.json();
    if (response.status === 401) {
      status.textContent = "This token is not valid.";
      status.dataset.state = "bad";
      return; // trying again with the same token would only count as another failure
    }
    if (!response.ok) throw new Error(error.message);
    if (!models.length) throw new Error("No model is ready yet. This page keeps checking.");
    status.textContent = models.length === 1 ? `${models[0].version} is ready` : `${models.length} models are ready`;
    status.dataset.state = "good";
    found(models);
  } catch (error) {
    status.textContent = error instanceof TypeError ? "The page's server cannot be reached." : error.message;
    status.dataset.state = "bad";
    timer = setTimeout(findModels, RETRY_MS, found);
  } finally {
    pending = false;
  }
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
