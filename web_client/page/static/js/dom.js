// Elements, number formats, and announcements for screen readers.
export const percent = (share) => `${(100 * share).toFixed(share > 0 && share < 0.0995 ? 2 : 1)} %`;
export const seconds = (ms) => `${(ms / 1000).toFixed(1)} s`;
export const pixels = (count) => `${count.toLocaleString("en")} px`;
export const objects = (count) => (count === 1 ? "object" : "objects");
export const megabytes = (count) => `${Number((count / 1e6).toPrecision(3))} MB`;

export const $ = (id) => document.getElementById(id);

/** An element with properties and children. */
export function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

/** Announce politely: after what is being read. */
export function announce(text) {
  $("live").textContent = text;
}

/** Announce at once. */
export function announceError(text) {
  $("alert").textContent = "";
  setTimeout(() => ($("alert").textContent = text), 50);
}

let later;
/** Announce when a slider has come to rest. */
export function announceLater(text) {
  clearTimeout(later);
  later = setTimeout(() => announce(text), 600);
}
