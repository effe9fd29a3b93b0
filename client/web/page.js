/** The page: one take at a time, and what people do with the words afterwards. */

import * as dock from "./dock.js";
import { MicrophoneError } from "./microphone.js";
import { RecordingError } from "./recording.js";
import { StarlingError } from "./starling.js";
import { toSrt, toText, toVtt } from "./subtitles.js";
import { Take } from "./take.js";
import { Transcript } from "./transcript.js";

const FIGURES_MS = 200;
const LAG_SHOWN_MS = 4000;

const { element } = dock;
const transcript = new Transcript();

/** @type {Take | null} */ let take = null;
let isFinishing = false;
let lag = { seconds: 0, at: -Infinity };

// --- takes

/** @param {(take: Take) => Promise<void>} run @param {string} status */
async function begin(run, status) {
  dock.hideNotice();
  dock.keepChoices();
  const mine = (take = new Take((level) => dock.meter.push(level), listen));
  isFinishing = false;
  lag = { seconds: 0, at: -Infinity };
  transcript.begin();
  dock.meter.reset();
  dock.showButton("cancel");
  dock.showStatus("waiting", status);
  showFigures();
  const figures = setInterval(showFigures, FIGURES_MS);
  const lock = await keepAwake();
  try {
    await run(mine);
    transcript.hidePartial();
    dock.showStatus("idle", mine.session?.state === "ended" ? "Finished" : "Ready");
  } catch (error) {
    explain(error);
  } finally {
    clearInterval(figures);
    if (mine.session) transcript.measure(mine.session.writtenSeconds);
    await lock?.release();
    take = null;
    element("welcome").hidden = transcript.lines.length > 0 || !element("partial").hidden;
    dock.showButton("start");
  }
}

/** @param {unknown} error */
function explain(error) {
  if (error instanceof StarlingError && error.kind === "over") {
    transcript.hidePartial();
    return dock.showStatus("idle", "Ready");
  }
  if (error instanceof MicrophoneError || error instanceof RecordingError) {
    dock.showStatus("idle", "Ready");
    return dock.showNotice(error.message);
  }
  dock.showStatus("failed", "Stopped");
  dock.showNotice(advice(error));
}

/** @param {unknown} error */
function advice(error) {
  if (!(error instanceof StarlingError)) return `Something went wrong in this page: ${error}`;
  switch (error.kind) {
    case "unreachable":
      return "The server does not answer. Check that it is running, then start again.";
    case "refused":
      if (error.status === 503) return "The server is full at the moment. Wait a little, then start again.";
      if (error.status === 401) return askAgain();
      if (error.status === 403) return "The server does not know this page’s address. Whoever runs it can add it to STARLING_ALLOWED_ORIGINS.";
      break;
    case "lost":
      return "The connection did not come back in time. Everything above is safe; start again to go on.";
  }
  return `The session ended: ${error.message}. Everything above is safe; start again to go on.`;
}

function askAgain() {
  const key = /** @type {HTMLInputElement} */ (element("key"));
  key.focus();
  return key.value === "" ? "This server asks for a key." : "The server does not accept this key.";
}

/** @param {import("./starling.js").StarlingSession} session */
function listen(session) {
  session.addEventListener("state", (event) => showState(/** @type {CustomEvent} */ (event).detail));
  session.addEventListener("partial", (event) => {
    const { detail } = /** @type {CustomEvent} */ (event);
    element("welcome").hidden = true;
    lag = { seconds: Math.max(0, session.writtenSeconds - detail.end), at: performance.now() };
    transcript.showPartial(detail);
  });
  session.addEventListener("final", (event) => {
    element("welcome").hidden = true;
    element("actions").hidden = false;
    transcript.add(/** @type {CustomEvent} */ (event).detail);
  });
  session.addEventListener("error", (event) => {
    const { detail } = /** @type {CustomEvent} */ (event);
    if (detail.recoverable) dock.showNotice(detail.message, "hint");
  });
}

/** @param {{state: string, attempt?: number, cause?: string}} detail */
function showState({ state, attempt = 0, cause = "" }) {
  switch (state) {
    case "connecting":
      return dock.showStatus("waiting", "Connecting", attempt > 1 ? cause : "");
    case "live":
      return showRunning();
    case "reconnecting":
      return dock.showStatus("waiting", "Reconnecting", attempt > 1 ? `sound is kept, attempt ${attempt}` : "sound is kept");
  }
}

function showRunning() {
  dock.showButton(isFinishing ? "cancel" : "stop");
  if (isFinishing) return dock.showStatus("waiting", "Finishing");
  dock.showStatus("live", take?.total === null ? "Listening" : "Transcribing");
}

function showFigures() {
  const { session = null, total = null, isLive = true } = take ?? {};
  if (!session) return dock.showFigures({ seconds: 0, total, lag: "", isLive });
  transcript.measure(session.writtenSeconds);
  const seconds = isLive ? session.writtenSeconds : session.acknowledgedSeconds;
  dock.showFigures({ seconds, total, lag: lagText(session.state), isLive });
}

/** @param {string} state */
function lagText(state) {
  const session = take?.session;
  if (!take?.isLive || !session) return "";
  if (state === "reconnecting" || state === "connecting") {
    return `${Math.round(session.writtenSeconds - session.acknowledgedSeconds)} s kept`;
  }
  const behind = session.writtenSeconds - session.sentSeconds;
  if (behind > 1) return `${Math.round(behind)} s behind`;
  if (performance.now() - lag.at > LAG_SHOWN_MS) return "";
  return lag.seconds < 1 ? `${Math.round(lag.seconds * 100) * 10} ms behind` : `${lag.seconds.toFixed(1)} s behind`;
}

/** Phones switch off screen and microphone together. */
async function keepAwake() {
  try {
    return await navigator.wakeLock?.request("screen");
  } catch {
    return undefined;
  }
}

// --- starting and stopping

element("start").addEventListener("click", () => {
  if (take === null) return startMicrophone();
  if (isFinishing || take.session === null || take.session.state === "connecting") return take.cancel();
  isFinishing = true;
  take.stop();
  showRunning();
});

function startMicrophone() {
  begin(
    (mine) =>
      mine.runMicrophone(dock.choices(), (reason) => {
        isFinishing = true;
        dock.showNotice(reason);
        showRunning();
      }),
    "Waiting for the microphone",
  );
}

/** @param {File | undefined} file */
function startFile(file) {
  if (file === undefined) return;
  if (take !== null) return dock.showNotice("Stop the present recording before you open a file.", "hint");
  begin((mine) => mine.runFile(file, dock.isChecked("real-time"), dock.choices()), `Reading ${file.name}`);
}

element("open").addEventListener("click", () => element("file").click());
element("file").addEventListener("change", () => {
  const input = /** @type {HTMLInputElement} */ (element("file"));
  startFile(input.files?.[0]);
  input.value = "";
});

element("language").addEventListener("change", () => {
  dock.keepChoices();
  const chosen = dock.language();
  if (take?.session && !isFinishing && chosen) take.session.setLanguage(chosen);
});

/** @param {DragEvent} event */
const hasFiles = (event) => event.dataTransfer?.types.includes("Files") ?? false;
addEventListener("dragover", (event) => {
  if (!hasFiles(event)) return;
  event.preventDefault();
  element("drop").hidden = false;
});
addEventListener("dragleave", (event) => {
  if (event.relatedTarget === null) element("drop").hidden = true;
});
addEventListener("drop", (event) => {
  if (!hasFiles(event)) return;
  event.preventDefault();
  element("drop").hidden = true;
  startFile(event.dataTransfer?.files[0]);
});

addEventListener("pagehide", () => take?.cancel());

// --- the words

element("copy").addEventListener("click", async () => {
  await copy(toText(transcript.lines));
  const button = element("copy");
  button.textContent = "Copied";
  element("said").textContent = "Transcript copied";
  setTimeout(() => {
    button.textContent = "Copy";
    element("said").textContent = "";
  }, 1800);
});

/** @param {string} text */
async function copy(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  // Without https there is no clipboard for pages; the old way still works.
  const area = document.createElement("textarea");
  area.value = text;
  area.className = "hidden-text";
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}

const FORMATS = new Map([
  ["txt", { write: toText, type: "text/plain" }],
  ["srt", { write: toSrt, type: "application/x-subrip" }],
  ["vtt", { write: toVtt, type: "text/vtt" }],
]);

for (const button of document.querySelectorAll("[data-format]")) {
  const ending = /** @type {HTMLElement} */ (button).dataset.format ?? "";
  const format = FORMATS.get(ending);
  button.addEventListener("click", () => {
    if (format) download(`transcript.${ending}`, new Blob([format.write(transcript.lines)], { type: format.type }));
  });
}

/** @param {string} name @param {Blob} blob */
function download(name, blob) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

element("clear").addEventListener("click", () => {
  transcript.clear();
  element("actions").hidden = true;
  element("welcome").hidden = take !== null;
  element("said").textContent = "Transcript cleared";
  element("start").focus();
});

dock.loadChoices().catch(() => dock.showNotice("The list of languages could not be loaded; the server’s own is used."));
