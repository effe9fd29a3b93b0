/**
 * Runs on the browser's audio thread: the microphone's blocks of 128 samples to frames of 20 ms at 16 kHz.
 *
 * Each message is `{samples: Int16Array, level: number}`, the level being the frame's RMS from 0 to 1. After the
 * message "stop" what is left follows as a last frame, then `null`.
 */

import { Resampler } from "./resampler.js";

const RATE = 16000;
const FRAME = RATE / 50;

class Capture extends AudioWorkletProcessor {
  #resampler = sampleRate === RATE ? null : new Resampler(sampleRate, RATE);
  #frame = new Int16Array(FRAME);
  #filled = 0;
  #energy = 0;
  #running = true;

  constructor() {
    super();
    this.port.onmessage = () => {
      this.#running = false;
      this.#post();
      this.port.postMessage(null);
    };
  }

  process([[input]]) {
    if (input !== undefined && this.#running) this.#take(this.#resampler ? this.#resampler.process(input) : input);
    return this.#running;
  }

  #take(samples) {
    for (const sample of samples) {
      const value = Math.max(-1, Math.min(1, sample));
      this.#energy += value * value;
      this.#frame[this.#filled++] = Math.min(32767, Math.round(value * 32768));
      if (this.#filled === FRAME) this.#post();
    }
  }

  #post() {
    if (this.#filled === 0) return;
    const samples = this.#frame.slice(0, this.#filled);
    const level = Math.sqrt(this.#energy / this.#filled);
    this.port.postMessage({ samples, level }, [samples.buffer]);
    this.#filled = 0;
    this.#energy = 0;
  }
}

registerProcessor("starling-capture", Capture);
