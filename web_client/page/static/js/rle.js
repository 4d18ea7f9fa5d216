// COCO's run-length encoding: columns from left to right, each from top to bottom; runs of 0 and 1 in turn.

/** Decode the compressed form (pycocotools' maskApi.c, rleFrString): 5 bits a character, run i relative to run i-2. */
export function decodeCounts(text) {
  const counts = [];
  for (let at = 0; at < text.length; ) {
    let value = 0;
    let shift = 0;
    let code;
    do {
      code = text.charCodeAt(at++) - 48;
      value |= (code & 0x1f) << shift;
      shift += 5;
    } while (code & 0x20);
    if (code & 0x10) value |= -1 << shift; // the sign bit goes on to the left
    if (counts.length > 2) value += counts[counts.length - 2];
    counts.push(value);
  }
  return Uint32Array.from(counts);
}

/** Call visit(start, end) for every run of ones, as offsets in column-major order. */
export function eachRun(counts, visit) {
  let at = 0;
  for (let i = 0; i < counts.length; i++) {
    const end = at + counts[i];
    if (i & 1 && end > at) visit(at, end);
    at = end;
  }
}

/** The smallest rectangle {x, y, width, height} that holds all ones; of no width where there are none. */
export function bounds(counts, rows) {
  let left = Infinity, right = -1, top = Infinity, bottom = -1;
  eachRun(counts, (start, end) => {
    const first = Math.floor(start / rows), last = Math.floor((end - 1) / rows);
    left = Math.min(left, first);
    right = Math.max(right, last);
    // a run over the end of a column touches the bottom of one and the top of the next
    top = Math.min(top, first === last ? start % rows : 0);
    bottom = Math.max(bottom, first === last ? (end - 1) % rows : rows - 1);
  });
  return right < 0 ? { x: 0, y: 0, width: 0, height: 0 } : { x: left, y: top, width: right - left + 1, height: bottom - top + 1 };
}
