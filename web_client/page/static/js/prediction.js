// A reply, decoded: the masks, and for every pixel the best-scoring object there.
import { bounds, decodeCounts, eachRun } from "./rle.js";

const COLORS = ["#e5484d", "#0b84ee", "#f0a020", "#2f9e64", "#9a53cf", "#00a0c0", "#e2408a", "#7aae14", "#f26b0d", "#5f62dd", "#12a08f", "#b98a00"];

export class Prediction {
  /** @param reply Contract 2's JSON with RLE masks. */
  constructor(reply) {
    this.width = reply.image.width;
    this.height = reply.image.height;
    this.instances = [...reply.instances]
      .sort((a, b) => b.score - a.score)
      .map((instance, index) => {
        const counts = decodeCounts(instance.mask.counts);
        return { ...instance, number: index + 1, counts, crop: bounds(counts, this.height), color: COLORS[index % COLORS.length], struck: false };
      });
    this.owner = new Uint16Array(this.width * this.height);
    this.refresh();
  }

  /** Recompute the owners after an object was struck out or restored. A new threshold does not need this: see covered(). */
  refresh() {
    const { owner, instances } = this;
    owner.fill(0);
    for (let i = instances.length - 1; i >= 0; i--) {
      if (!instances[i].struck) eachRun(instances[i].counts, (start, end) => owner.fill(i + 1, start, end));
    }
    this.pixels = new Uint32Array(instances.length + 1);
    for (let i = 0; i < owner.length; i++) this.pixels[owner[i]]++;
    this.pixels[0] = 0;
    // pixels[k]: the pixels under at least one of the k best objects. Each pixel belongs to its best, so sums suffice.
    for (let k = 1; k < this.pixels.length; k++) this.pixels[k] += this.pixels[k - 1];
  }

  /** How many instances reach the threshold; they come first. */
  reach(threshold) {
    const below = this.instances.findIndex((instance) => instance.score < threshold - 1e-9);
    return below < 0 ? this.instances.length : below;
  }

  visible(threshold) {
    return this.instances.slice(0, this.reach(threshold)).filter((instance) => !instance.struck);
  }

  /** The share of pixels under at least one visible mask, 0..1. */
  covered(threshold) {
    return this.pixels[this.reach(threshold)] / this.owner.length;
  }

  /** The best-scoring visible instance at a pixel, or null. */
  at(x, y, threshold) {
    if (x < 0 || y < 0 || x >= this.width || y >= this.height) return null;
    const index = this.owner[Math.floor(x) * this.height + Math.floor(y)];
    return index && index <= this.reach(threshold) ? this.instances[index - 1] : null;
  }
}
