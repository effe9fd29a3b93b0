/**
 * Changes the sample rate of a stream, for browsers whose microphone cannot be opened at 16 kHz.
 *
 * A polyphase filter: windowed sinc (Kaiser, beta 8: aliases 80 dB down), one set of taps for each of the positions
 * that an output sample can have between two input samples (Crochiere and Rabiner, "Multirate Digital Signal
 * Processing", 1983).
 */

const ZERO_CROSSINGS = 16;
const PASS_BAND = 0.92;
const KAISER_BETA = 8;

export class Resampler {
  #up;
  #down;
  #taps;
  /** @type {Float32Array[]} */ #phases = [];
  #history;
  /** Position of the next output sample, in steps of 1/up input samples after the first sample of the history. */
  #position = 0;

  /** @param {number} from Samples per second that come in. @param {number} to Samples per second that go out. */
  constructor(from, to) {
    const divisor = greatestCommonDivisor(from, to);
    this.#up = to / divisor;
    this.#down = from / divisor;
    this.#taps = 2 * Math.ceil(ZERO_CROSSINGS * Math.max(1, from / to));
    this.#history = new Float32Array(this.#taps - 1);
    const cutoff = PASS_BAND * Math.min(1, to / from);
    for (let phase = 0; phase < this.#up; phase++) {
      this.#phases.push(filter(this.#taps, phase / this.#up, cutoff));
    }
  }

  /**
   * Takes the next piece of the stream and gives what can be computed with it.
   *
   * @param {Float32Array} input
   * @returns {Float32Array}
   */
  process(input) {
    const samples = new Float32Array(this.#history.length + input.length);
    samples.set(this.#history);
    samples.set(input, this.#history.length);
    const end = (samples.length - this.#taps + 1) * this.#up;
    const output = new Float32Array(Math.max(0, Math.ceil((end - this.#position) / this.#down)));
    for (let i = 0; i < output.length; i++, this.#position += this.#down) {
      const first = Math.floor(this.#position / this.#up);
      const taps = this.#phases[this.#position % this.#up];
      let sum = 0;
      for (let k = 0; k < taps.length; k++) sum += taps[k] * samples[first + k];
      output[i] = sum;
    }
    const consumed = samples.length - (this.#taps - 1);
    this.#position -= consumed * this.#up;
    this.#history = samples.slice(consumed);
    return output;
  }
}

/** @param {number} count @param {number} fraction @param {number} cutoff Of the input's Nyquist frequency. */
function filter(count, fraction, cutoff) {
  const taps = new Float32Array(count);
  const centre = count / 2 - 1 + fraction;
  let sum = 0;
  for (let k = 0; k < count; k++) {
    const x = k - centre;
    const edge = x / (count / 2);
    const window = Math.abs(edge) < 1 ? bessel(KAISER_BETA * Math.sqrt(1 - edge * edge)) / bessel(KAISER_BETA) : 0;
    taps[k] = (x === 0 ? cutoff : Math.sin(Math.PI * cutoff * x) / (Math.PI * x)) * window;
    sum += taps[k];
  }
  // Every phase passes a constant unchanged, or the rounding of the window would be heard as a hum.
  return taps.map((tap) => tap / sum);
}

/** The modified Bessel function of the first kind and order 0, by its series. @param {number} x */
function bessel(x) {
  let sum = 1;
  let term = 1;
  for (let k = 1; term > 1e-12 * sum; k++) {
    term *= (x / (2 * k)) ** 2;
    sum += term;
  }
  return sum;
}

/** @param {number} a @param {number} b @returns {number} */
function greatestCommonDivisor(a, b) {
  return b === 0 ? a : greatestCommonDivisor(b, a % b);
}
