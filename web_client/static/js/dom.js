// How numbers and states are written, and how they are told to a screen reader.
export const percent = (share) => `${(100 * share).toFixed(share > 0 && share < 0.0995 ? 2 : 1)} %`;
export const seconds = (ms) => `${(ms / 1000).toFixed(1)} s`;
export const pixels = (count) => `${count.toLocaleString("en")} px`;
export const objects = (count) => (count === 1 ? "object" : "objects");
export const megabytes = (count) => `${Number((count / 1e6).toPrecision(3))} MB`;

export const $ = (id) => document.getElementById(id);

/** An element with properties and children. */
export function make(tag, properties = {}, ...children) {
  const { data = {}, ...rest } = properties;
  const element = Object.assign(document.createElement(tag), rest);
  Object.assign(element.dataset, data);
  element.append(...children);
  return element;
}

/** Tell it when there is time. */
export function say(text) {
  $("live").textContent = text;
}

/** Tell it now. */
export function warn(text) {
  $("alert").textContent = "";
  setTimeout(() => ($("alert").textContent = text), 50);
}

let later;
/** Tell it once things have stopped moving (a slider). */
export function sayLater(text) {
  clearTimeout(later);
  later = setTimeout(() => say(text), 600);
}
