/** One take: a session with what feeds it, from the start to the last final. */

import { openMicrophone } from "./microphone.js";
import { decode, stream } from "./recording.js";
import { StarlingSession } from "./starling.js";

const RATE = 16000;
const MAX_LABEL = 200;

/**
 * Events: those of the session, and `finishing` once no more sound comes.
 */
export class Take {
  /** @type {StarlingSession | null} */ session = null;
  /** Seconds of the file, null for the microphone. @type {number | null} */ total = null;
  /** Whether sound comes no faster than it was said. */
  isLive = true;
  #stop = new AbortController();
  #onLevel;
  #listen;

  /** @param {(level: number) => void} onLevel @param {(session: StarlingSession) => void} listen Gets the session first. */
  constructor(onLevel, listen) {
    this.#onLevel = onLevel;
    this.#listen = listen;
  }

  /** No more sound; `run` goes on until the last final is here. */
  stop() {
    this.#stop.abort();
  }

  /** Gives up what is not final yet. */
  cancel() {
    this.#stop.abort();
    this.session?.close();
  }

  /**
   * Transcribes the microphone until `stop`.
   *
   * @param {import("./starling.js").SessionOptions} options
   * @param {(reason: string) => void} onInterrupted Told why the sound has ended by itself.
   */
  async runMicrophone(options, onInterrupted) {
    const interrupt = (/** @type {string} */ reason) => {
      if (this.#stop.signal.aborted) return;
      onInterrupted(reason);
      this.stop();
    };
    const onFrame = (/** @type {Int16Array} */ samples, /** @type {number} */ level) => {
      this.#onLevel(level);
      try {
        this.session?.send(samples);
      } catch (error) {
        interrupt(error instanceof Error ? error.message : String(error));
      }
    };
    const microphone = await openMicrophone(onFrame, interrupt);
    try {
      if (this.#stop.signal.aborted) return;
      this.#open("page: microphone", options);
      await this.#stopped();
    } finally {
      await microphone.stop();
    }
    await this.#session.end();
  }

  /**
   * Transcribes a file to its end, or until `stop`.
   *
   * @param {File} file
   * @param {boolean} realTime
   * @param {import("./starling.js").SessionOptions} options
   */
  async runFile(file, realTime, options) {
    const samples = await decode(file);
    if (this.#stop.signal.aborted) return;
    this.total = samples.length / RATE;
    this.isLive = realTime;
    const session = this.#open(`page: ${file.name}`, options);
    await stream(session, samples, { realTime, signal: this.#stop.signal, onLevel: this.#onLevel });
    await session.end();
  }

  get #session() {
    return /** @type {StarlingSession} */ (this.session);
  }

  /** @param {string} label @param {import("./starling.js").SessionOptions} options */
  #open(label, options) {
    const url = new URL("stream", document.baseURI);
    const session = new StarlingSession(url, { ...options, sampleRate: RATE, label: label.slice(0, MAX_LABEL) });
    session.addEventListener("state", () => ["failed", "closed"].includes(session.state) && this.stop());
    this.session = session;
    this.#listen(session);
    return session;
  }

  #stopped() {
    const { signal } = this.#stop;
    return new Promise((resolve) => {
      if (signal.aborted) resolve(undefined);
      signal.addEventListener("abort", () => resolve(undefined), { once: true });
    });
  }
}
