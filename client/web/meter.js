/** The sound level of the last seconds as a row of bars, or as one bar for people who want less motion. */

const BAR = 3;
const GAP = 2;
const QUIETEST_DB = -56;
const LOUDEST_DB = -6;
const FRAMES_A_BAR = 3;
const SPOKEN_EVERY_MS = 500;

export class Meter {
  #element;
  #canvas;
  #context;
  /** @type {number[]} */ #bars = [];
  #loudest = 0;
  #frames = 0;
  #spokenAt = 0;
  #drawing = false;
  #calm = matchMedia("(prefers-reduced-motion: reduce)");

  /** @param {HTMLElement} element With the role of a meter. @param {HTMLCanvasElement} canvas Within it. */
  constructor(element, canvas) {
    this.#element = element;
    this.#canvas = canvas;
    this.#context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  }

  /** Takes the level of the next 20 ms. @param {number} rms From 0 to 1. */
  push(rms) {
    const decibels = 20 * Math.log10(Math.max(rms, 1e-6));
    const level = Math.max(0, Math.min(1, (decibels - QUIETEST_DB) / (LOUDEST_DB - QUIETEST_DB))) ** 1.6;
    this.#loudest = Math.max(this.#loudest, level);
    if (++this.#frames < FRAMES_A_BAR) return;
    this.#bars.push(this.#loudest);
    this.#frames = this.#loudest = 0;
    this.#say(this.#bars[this.#bars.length - 1]);
    if (this.#drawing) return;
    this.#drawing = true;
    requestAnimationFrame(() => this.#draw());
  }

  reset() {
    this.#bars = [];
    this.#draw();
  }

  /** @param {number} level */
  #say(level) {
    const now = performance.now();
    if (now - this.#spokenAt < SPOKEN_EVERY_MS) return;
    this.#spokenAt = now;
    this.#element.setAttribute("aria-valuenow", String(Math.round(level * 100)));
  }

  #draw() {
    this.#drawing = false;
    const { clientWidth: width, clientHeight: height } = this.#canvas;
    const scale = devicePixelRatio;
    if (this.#canvas.width !== Math.round(width * scale)) this.#canvas.width = Math.round(width * scale);
    if (this.#canvas.height !== Math.round(height * scale)) this.#canvas.height = Math.round(height * scale);
    const context = this.#context;
    context.setTransform(scale, 0, 0, scale, 0, 0);
    context.clearRect(0, 0, width, height);
    context.fillStyle = getComputedStyle(this.#canvas).color;
    if (this.#calm.matches) return this.#drawBar(width, height);
    const count = Math.floor(width / (BAR + GAP));
    this.#bars.splice(0, this.#bars.length - count);
    const first = count - this.#bars.length;
    for (let i = 0; i < count; i++) {
      const level = i < first ? 0 : this.#bars[i - first];
      const tall = Math.max(BAR, level * height);
      context.globalAlpha = level === 0 ? 0.3 : 0.45 + 0.55 * (i / count);
      context.beginPath();
      context.roundRect(i * (BAR + GAP), (height - tall) / 2, BAR, tall, BAR / 2);
      context.fill();
    }
  }

  /** @param {number} width @param {number} height */
  #drawBar(width, height) {
    const context = this.#context;
    for (const [alpha, part] of [[0.25, 1], [1, this.#bars.at(-1) ?? 0]]) {
      context.globalAlpha = alpha;
      context.beginPath();
      context.roundRect(0, height / 2 - 3, width * part, 6, 3);
      context.fill();
    }
    this.#bars.splice(0, this.#bars.length - 1);
  }
}
