/**
 * What a session has said and may have to say again. A part of starling.js.
 *
 * @module journal
 */

/** @typedef {{kind: "finalize" | "language" | "end", position: number, value: string, answered: boolean}} Control */

/** The longest frame of audio. */
export const MAX_FRAME_SAMPLES = 8192;

/** The message that ends a session. */
export const END = JSON.stringify({ type: "end" });

/**
 * What was said that the server may still need: audio and controls in the order in which they were said.
 *
 * All positions are samples since the session's first. Audio is kept from the last acknowledged sample on; a cursor
 * marks what the present connection has taken.
 */
export class Journal {
  #samples = new Int16Array(MAX_FRAME_SAMPLES);
  #first = 0;
  #length = 0;
  #base = 0;
  #limit;
  /** @type {Control[]} */ #controls = [];
  /** @type {Control[]} */ #unsent = [];
  /** @type {string | null} */ #languageBefore = null;
  #languageChanged = false;
  cursor = 0;
  acknowledged = 0;
  ended = false;

  /** @param {number} limit The most samples to keep. */
  constructor(limit) {
    this.#limit = limit;
  }

  /** Samples said so far. */
  get tail() {
    return this.#base + this.#length;
  }

  /** Samples that may be added now. */
  get room() {
    return Math.max(0, this.#limit - this.#length);
  }

  get controlCount() {
    return this.#controls.length;
  }

  /** Whether the present connection has something to take. */
  get hasMore() {
    return this.#unsent.length > 0 || this.cursor < this.tail;
  }

  get pendingFinalizes() {
    return this.#controls.filter((control) => control.kind === "finalize" && !control.answered);
  }

  /** @param {Int16Array} samples */
  append(samples) {
    const needed = this.#length + samples.length;
    if (this.#first + needed > this.#samples.length) {
      const kept = this.#samples.subarray(this.#first, this.#first + this.#length);
      const roomy = needed * 2 > this.#samples.length ? new Int16Array(needed * 2) : this.#samples;
      roomy.set(kept);
      this.#samples = roomy;
      this.#first = 0;
    }
    this.#samples.set(samples, this.#first + this.#length);
    this.#length = needed;
  }

  /** Adds a control after the audio said so far. @param {Control["kind"]} kind */
  add(kind, value = "") {
    const control = { kind, position: this.tail, value, answered: false };
    this.#controls.push(control);
    this.#unsent.push(control);
    this.#languageChanged ||= kind === "language";
    this.ended ||= kind === "end";
  }

  /** The next frame for the present connection, null when it has taken everything. @returns {Int16Array|string|null} */
  next() {
    let until = this.tail;
    if (this.#unsent.length > 0) {
      until = this.#unsent[0].position;
      if (until <= this.cursor) return controlFrame(this.#unsent.shift());
    }
    if (this.cursor >= until) return null;
    const at = this.#first + this.cursor - this.#base;
    const frame = this.#samples.slice(at, at + Math.min(MAX_FRAME_SAMPLES, until - this.cursor));
    this.cursor += frame.length;
    this.#forget();
    return frame;
  }

  /** Notes that the server needs nothing before `offset`; says whether that was news. @param {number} offset */
  acknowledge(offset) {
    if (offset <= this.acknowledged) return false;
    this.acknowledged = offset;
    this.#forget();
    return true;
  }

  /** For a session that no server knows yet: everything is to be sent. */
  restart() {
    this.cursor = this.#base;
    this.#unsent = [...this.#controls];
  }

  /** For a resumed connection: back to the last acknowledgement. @returns {number} The offset to resume from. */
  rewind() {
    this.cursor = this.acknowledged;
    this.#forget();
    return this.#base;
  }

  /**
   * Chooses the controls to send again once the server has said which sample it wants next: those before it were
   * handled. The language is told again as it was at that sample, because a server that starts afresh may know an
   * older or a later one.
   *
   * @param {number} wanted
   * @param {string} firstLanguage
   */
  replayControls(wanted, firstLanguage) {
    this.#unsent = this.#controls.filter((control) => control.position >= wanted && !control.answered);
    if (!this.#languageChanged) return;
    const before = this.#controls.filter((control) => control.kind === "language" && control.position < wanted);
    const value = before.at(-1)?.value ?? this.#languageBefore ?? firstLanguage;
    this.#unsent.unshift({ kind: "language", position: wanted, value, answered: false });
  }

  /** The awaited finalizes up to the named one; empty where it is not awaited. @param {string} id */
  unansweredUntil(id) {
    const pending = this.pendingFinalizes;
    return pending.slice(0, pending.findIndex((control) => control.value === id) + 1);
  }

  /** Finalizes that were handled, by the acknowledgement, though their answer was lost with a connection. */
  settledFinalizes() {
    return this.pendingFinalizes.filter((c) => c.position <= this.acknowledged && !this.#unsent.includes(c));
  }

  #forget() {
    // The connection has announced where it starts and the server counts from there: what was acknowledged in the
    // meantime must still be sent before it may be forgotten.
    const dropped = Math.min(this.acknowledged, this.cursor, this.tail) - this.#base;
    if (dropped > 0) {
      this.#first += dropped;
      this.#length -= dropped;
      this.#base += dropped;
    }
    this.#controls = this.#controls.filter((control) => {
      if (control.position >= this.#base || (control.kind === "finalize" && !control.answered)) return true;
      if (control.kind === "language") this.#languageBefore = control.value;
      return false;
    });
  }
}

/** @param {Control | undefined} control */
function controlFrame(control) {
  switch (control?.kind) {
    case "finalize":
      return JSON.stringify({ type: "finalize", id: control.value });
    case "language":
      return JSON.stringify({ language: control.value });
    default:
      return END;
  }
}
