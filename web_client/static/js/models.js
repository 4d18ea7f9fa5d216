// The versions of the model that are ready, and the two lists to choose from.
import { $, make } from "./dom.js";

const AGAIN = 5000; // ms until the next look, while none is ready

/** Look until a model is there, then call found(models). Says in the masthead how things stand. */
export async function findModels(found) {
  const line = $("service");
  try {
    const response = await fetch("/api/models");
    const body = await response.json();
    if (!response.ok) throw new Error(body.error.message);
    if (!body.models.length) throw new Error("No model is ready yet. This page looks again by itself.");
    const [first] = body.models;
    line.textContent = body.models.length === 1 ? `${first.version} is ready` : `${body.models.length} models are ready`;
    line.dataset.state = "good";
    found(body.models);
  } catch (error) {
    line.textContent = error instanceof TypeError ? "The page's server cannot be reached." : error.message;
    line.dataset.state = "bad";
    setTimeout(findModels, AGAIN, found);
  }
}

export function label({ version, backbone, segm_AP: ap }) {
  const named = version.startsWith(backbone) ? version : `${version} (${backbone})`;
  return ap === null ? named : `${named} · AP ${ap.toFixed(1)}`;
}

export const preferred = (models) => (models.find((model) => model.default) ?? models[0])?.version ?? "";

/** Fill both lists; "beside another" needs a second model. */
export function fillModels(models, version, other) {
  const options = () => models.map((model) => make("option", { value: model.version, textContent: label(model) }));
  $("version").replaceChildren(...options());
  $("version").value = version;
  $("other").replaceChildren(...options().filter((option) => option.value !== version));
  if (other && other !== version) $("other").value = other;
  $("compare-row").hidden = models.length < 2;
  $("other").hidden = models.length < 2 || !$("compare").checked;
}
