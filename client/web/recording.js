/** Audio files as 16 kHz mono, and the way from there into a session. */

const RATE = 16000;
const CHUNK = RATE / 50;
const MAX_FILE_BYTES = 500e6;

/** The file cannot be transcribed; the message says why. */
export class RecordingError extends Error {}

/**
 * Decodes whatever the browser can play.
 *
 * @param {File} file
 * @returns {Promise<Float32Array>} Mono at 16 kHz.
 */
export async function decode(file) {
  if (file.size > MAX_FILE_BYTES) {
    throw new RecordingError(`${file.name} is too large to decode in a browser. Use the command line: starling transcribe FILE`);
  }
  let audio;
  try {
    audio = await new OfflineAudioContext(1, 1, RATE).decodeAudioData(await file.arrayBuffer());
  } catch {
    throw new RecordingError(`${file.name} holds no audio that this browser can decode. WAV, MP3, M4A, OGG and FLAC usually work.`);
  }
  const mono = audio.getChannelData(0);
  for (let channel = 1; channel < audio.numberOfChannels; channel++) {
    const samples = audio.getChannelData(channel);
    for (let i = 0; i < mono.length; i++) mono[i] += samples[i];
  }
  if (audio.numberOfChannels > 1) for (let i = 0; i < mono.length; i++) mono[i] /= audio.numberOfChannels;
  return mono;
}

/**
 * Sends samples until the end, or until `signal` is aborted.
 *
 * @param {import("./starling.js").StarlingSession} session
 * @param {Float32Array} samples
 * @param {{realTime: boolean, signal: AbortSignal, onLevel: (level: number) => void}} options
 */
export async function stream(session, samples, { realTime, signal, onLevel }) {
  const started = performance.now();
  const step = realTime ? CHUNK : CHUNK * 10;
  for (let at = 0; at < samples.length && !signal.aborted; at += step) {
    if (realTime) await sleep(started + (at / RATE) * 1000 - performance.now());
    const chunk = samples.subarray(at, at + step);
    await session.room(chunk.length);
    if (signal.aborted) return;
    session.send(chunk);
    onLevel(rms(chunk));
  }
}

/** @param {Float32Array} samples */
function rms(samples) {
  let energy = 0;
  for (const sample of samples) energy += sample * sample;
  return Math.sqrt(energy / samples.length);
}

/** @param {number} ms */
function sleep(ms) {
  return ms > 0 ? new Promise((resolve) => setTimeout(resolve, ms)) : Promise.resolve();
}
