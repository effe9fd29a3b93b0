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
  #openSeq = -1;

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
    this.#openSeq = -1;
    this.hidePartial();
  }

  /** The open session has so much audio. @param {number} seconds */
  measure(seconds) {
    this.#length = Math.max(this.#length, this.#offset + seconds);
  }

  /** @param {{text: string, stable: number, seq: number, start: number, language: string}} partial */
  showPartial(partial) {
    const follow = this.#isAtEnd;
    const [stable, unstable] = splitStable(partial);
    element("partial-time").textContent = timestamp(this.#offset + partial.start);
    element("partial-words").lang = partial.language === "auto" ? "" : partial.language;
    element("stable").textContent = stable;
    element("unstable").textContent = unstable;
    this.#openSeq = partial.seq;
    this.#partial.hidden = false;
    this.#partial.classList.toggle("take", this.#startsTake);
    this.#keepUp(follow);
  }

  hidePartial() {
    this.#partial.hidden = true;
    element("stable").textContent = element("unstable").textContent = "";
  }

  /** @param {{text: string, seq: number, start: number, end: number, language: string}} final */
  add(final) {
    const follow = this.#isAtEnd;
    if (this.#openSeq <= final.seq) this.hidePartial();
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
