// What a visitor corrects, and its undo. Nothing of it leaves the browser: it goes into the downloaded data set.
import { announce } from "./dom.js";

let made = []; // {picture, version, target, property, before, what}, the latest last

/** Set a property of an instance or a picture. @param what the correction in words: "balloon 3 struck out" */
export function correct(picture, target, property, value, what) {
  made.push({ picture, version: picture.version, target, property, before: target[property], what });
  target[property] = value;
  announce(`${what}.`);
}

/** Take the latest correction back and return it; undefined if there is none. */
export function undo() {
  const last = made.pop();
  if (!last) return last;
  last.target[last.property] = last.before;
  announce(`Undone: ${last.what}.`);
  return last;
}

export const canUndo = () => made.length > 0;

/** Drop the corrections of a picture that is removed or sent again. */
export function forget(picture) {
  made = made.filter((correction) => correction.picture !== picture);
}
