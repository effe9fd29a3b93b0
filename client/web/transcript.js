/** What has been said, on the page and as lines for copies and downloads. Text only ever enters as text. */

import { splitStable } from "./starling.js";

const NEAR_END_PX = 160;

/** @param {string} id @returns {HTMLElement} */
const element = (id) => /** @type {HTMLElement} */ (document.getElementById(id));

export class Transcript {
  #finals = element("finals");
  #partial = element("partial");
  #latest = element("latest");
  /** @type {import("./subtitles.js").Line[]} */ #lines = [];
  #offset = 0;
  #length = 0;
  #startsTake = false;
  /** Partials whose finals are still to come, by seq: while one is being stored, the next is already spoken. */
  /** @type {Map<number, {text: string, stable: number, seq: number, start: number, language: string}>} */ #open = new Map();

  constructor() {
    this.#latest.addEventListener("click", () => this.#toEnd());
    addEventListener("scroll", () => this.#isAtEnd && (this.#latest.hidden = true), { passive: true });
  }

  /** Every final so far, on one clock over all sessions of the page. */
  get lines() {
    return this.#lines;
  }

  /** A new session begins: its times continue where the last one ended. */
  begin() {
    this.#offset = this.#length;
    this.#startsTake = this.#lines.length > 0;
    this.hidePartial();
  }

  /** The open session has so much audio. @param {number} seconds */
  measure(seconds) {
    this.#length = Math.max(this.#length, this.#offset + seconds);
  }

  /** @param {{text: string, stable: number, seq: number, start: number, language: string}} partial */
  showPartial(partial) {
    const follow = this.#isAtEnd;
    if (partial.text) this.#open.set(partial.seq, partial);
    else this.#open.delete(partial.seq);
    this.#partial.classList.toggle("take", this.#startsTake);
    this.#renderOpen();
    this.#keepUp(follow);
  }

  hidePartial() {
    this.#open.clear();
    this.#renderOpen();
  }

  #renderOpen() {
    const partials = [...this.#open.values()];
    const last = partials.pop();
    this.#partial.hidden = last === undefined;
    const [stable, unstable] = last === undefined ? ["", ""] : splitStable(last);
    if (last !== undefined) {
      element("partial-time").textContent = timestamp(this.#offset + (partials[0] ?? last).start);
      element("partial-words").lang = last.language === "auto" ? "" : last.language;
    }
    element("stable").textContent = [...partials.map((partial) => partial.text), stable].join(" ");
    element("unstable").textContent = unstable;
  }

  /** @param {{text: string, seq: number, start: number, end: number, language: string}} final */
  add(final) {
    const follow = this.#isAtEnd;
    for (const seq of [...this.#open.keys()]) if (seq <= final.seq) this.#open.delete(seq);
    this.#renderOpen();
    if (!final.text) return; // Words that were shown turned out to be none.
    const line = { text: final.text, start: this.#offset + final.start, end: this.#offset + final.end };
    this.#lines.push(line);
    this.measure(final.end);
    this.#finals.append(entry(line, final.language, this.#startsTake));
    this.#startsTake = false;
    this.#keepUp(follow);
  }

  /** Forgets everything; a session that is open goes on. */
  clear() {
    this.#lines = [];
    this.#finals.replaceChildren();
    this.hidePartial();
    this.#startsTake = false;
  }

  get #isAtEnd() {
    return document.documentElement.scrollHeight - scrollY - innerHeight < NEAR_END_PX;
  }

  /** Stays at the end only where the reader is there; who has scrolled back to read is left in peace. @param {boolean} follow */
  #keepUp(follow) {
    if (follow) this.#toEnd();
    else this.#latest.hidden = false;
  }

  #toEnd() {
    scrollTo({ top: document.documentElement.scrollHeight });
    this.#latest.hidden = true;
  }
}

/** @param {import("./subtitles.js").Line} line @param {string} language @param {boolean} startsTake */
function entry({ text, start }, language, startsTake) {
  const paragraph = document.createElement("p");
  paragraph.className = startsTake ? "entry fresh take" : "entry fresh";
  const time = document.createElement("time");
  time.textContent = timestamp(start);
  // Announced with every line, a time is a nuisance; who wants it finds it in the downloads.
  time.setAttribute("aria-hidden", "true");
  const words = document.createElement("span");
  words.className = "words";
  words.dir = "auto";
  if (language && language !== "auto") words.lang = language;
  words.textContent = text;
  paragraph.append(time, " ", words);
  return paragraph;
}

/** Minutes and seconds, with hours where there are any. @param {number} seconds */
export function timestamp(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  const hours = Math.floor(whole / 3600);
  const minutes = Math.floor(whole / 60) % 60;
  const rest = String(whole % 60).padStart(2, "0");
  return hours > 0 ? `${hours}:${String(minutes).padStart(2, "0")}:${rest}` : `${minutes}:${rest}`;
}
