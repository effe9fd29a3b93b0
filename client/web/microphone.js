/** The microphone as frames of 16 kHz mono, and plain words for why it cannot be had. */

const RATE = 16000;

/** The microphone cannot be used; the message says what to do. */
export class MicrophoneError extends Error {}

/**
 * An open microphone.
 *
 * @typedef {object} Microphone
 * @property {string} label The device's name.
 * @property {() => Promise<void>} stop Lets the device go; every frame has been delivered when it resolves.
 */

/**
 * Opens the microphone with echo cancellation and noise suppression.
 *
 * @param {(samples: Int16Array, level: number) => void} onFrame Gets 20 ms at a time, the level from 0 to 1.
 * @param {(reason: string) => void} onLost Told once when the device goes away.
 * @returns {Promise<Microphone>}
 */
export async function openMicrophone(onFrame, onLost) {
  if (!navigator.mediaDevices?.getUserMedia) {
    throw new MicrophoneError(
      globalThis.isSecureContext
        ? "This browser cannot record audio. You can still open a file."
        : "Browsers allow the microphone only on https:// pages and on localhost. Open this page over https, or open a file instead.",
    );
  }
  const stream = await askForMicrophone();
  const [track] = stream.getAudioTracks();
  let context;
  try {
    context = await makeContext(stream);
    await loadWorklet(context);
    const source = new MediaStreamAudioSourceNode(context, { mediaStream: stream });
    const capture = new AudioWorkletNode(context, "starling-capture", {
      numberOfOutputs: 0,
      channelCount: 1,
      channelCountMode: "explicit",
    });
    const drained = new Promise((resolve) => {
      capture.port.onmessage = ({ data }) => {
        if (data === null) resolve(undefined);
        else onFrame(data.samples, data.level);
      };
    });
    track.addEventListener("ended", () => onLost("The microphone was unplugged or its permission was taken back."));
    source.connect(capture);
    if (context.state === "suspended") await context.resume();
    return { label: track.label, stop: () => stop(stream, context, capture, drained) };
  } catch (error) {
    track.stop();
    await context?.close();
    if (error instanceof MicrophoneError) throw error;
    throw new MicrophoneError(`The microphone could not be started: ${error instanceof Error ? error.message : error}`);
  }
}

/** @param {AudioContext} context */
async function loadWorklet(context) {
  try {
    await context.audioWorklet.addModule(new URL("capture-worklet.js", import.meta.url));
  } catch {
    throw new MicrophoneError("The server does not answer. Check that it is running, then start again.");
  }
}

async function askForMicrophone() {
  try {
    return await navigator.mediaDevices.getUserMedia({
      audio: { channelCount: 1, echoCancellation: true, noiseSuppression: true, autoGainControl: true },
    });
  } catch (error) {
    throw new MicrophoneError(explain(error));
  }
}

/** @param {unknown} error */
function explain(error) {
  switch (error instanceof DOMException ? error.name : "") {
    case "NotAllowedError":
      return "The microphone is blocked for this page. Allow it in the browser’s site settings (the icon beside the address), then start again.";
    case "NotFoundError":
      return "No microphone was found. Plug one in, or open a file instead.";
    case "NotReadableError":
    case "AbortError":
      return "The microphone is in use by another program, or the system does not let this browser use it.";
    default:
      return `The microphone could not be opened: ${error instanceof Error ? error.message : error}`;
  }
}

/** A context at 16 kHz where the browser can record at that rate; else the worklet resamples. @param {MediaStream} stream */
async function makeContext(stream) {
  const context = new AudioContext({ sampleRate: RATE, latencyHint: "interactive" });
  try {
    new MediaStreamAudioSourceNode(context, { mediaStream: stream }).disconnect();
    return context;
  } catch {
    // Firefox connects a microphone only to a context of the device's own rate.
    await context.close();
    return new AudioContext({ latencyHint: "interactive" });
  }
}

/** @param {MediaStream} stream @param {AudioContext} context @param {AudioWorkletNode} capture @param {Promise<void>} drained */
async function stop(stream, context, capture, drained) {
  capture.port.postMessage("stop");
  // A context that the system has suspended delivers nothing more.
  if (context.state === "running") await Promise.race([drained, new Promise((resolve) => setTimeout(resolve, 500))]);
  for (const track of stream.getTracks()) track.stop();
  await context.close();
}
