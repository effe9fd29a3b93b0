/** The parts of the page around the transcript: connection, notices, figures and the choices that people make. */

import { askForKey, ticketSource } from "./key.js";
import { Meter } from "./meter.js";
import { timestamp } from "./transcript.js";

/** Names that some browsers lack. */
const NAMES = new Map([["auto", "Detect language"], ["ba", "Bashkir"], ["bo", "Tibetan"]]);

const CHOICES = "starling.choices";

/** @template {HTMLElement} T @param {string} id @returns {T} */
export const element = (id) => /** @type {T} */ (document.getElementById(id));

export const meter = new Meter(element("meter"), element("wave"));

/**
 * Shows where things stand. `text` is announced, `detail` is not.
 *
 * @param {"idle" | "live" | "waiting" | "failed"} state
 * @param {string} text
 */
export function showStatus(state, text, detail = "") {
  element("connection").dataset.state = state;
  const status = element("status");
  if (status.textContent !== text) status.textContent = text;
  element("detail").textContent = detail;
}

/** @param {string} text @param {"error" | "hint"} kind */
export function showNotice(text, kind = "error") {
  element("notice").dataset.kind = kind;
  element("notice-text").textContent = text;
  element("notice").hidden = false;
}

export function hideNotice() {
  element("notice").hidden = true;
}

element("notice-close").addEventListener("click", () => {
  hideNotice();
  element("start").focus();
});

/**
 * What the main button does next.
 *
 * @param {"start" | "stop" | "cancel"} does
 */
export function showButton(does) {
  const labels = { start: "Start microphone", stop: "Stop", cancel: "Cancel" };
  element("start").dataset.does = does === "start" ? "start" : "stop";
  element("start-label").textContent = labels[does];
  element("start-icon").setAttribute("href", does === "start" ? "#microphone" : "#square");
  element("open").hidden = does !== "start";
  element("gauges").hidden = does === "start";
}

/**
 * Seconds of audio; `total` for a file, which shows a bar in place of the level unless it plays at speaking speed.
 *
 * @param {{seconds: number, total: number | null, lag: string, isLive: boolean}} figures
 */
export function showFigures({ seconds, total, lag, isLive }) {
  element("clock").textContent = timestamp(seconds);
  element("total").textContent = total === null ? "" : ` of ${timestamp(total)}`;
  element("lag").textContent = lag;
  element("lag").hidden = !isLive;
  element("meter").hidden = !isLive;
  const bar = /** @type {HTMLProgressElement} */ (element("progress"));
  bar.hidden = isLive;
  bar.value = total === null ? 0 : seconds / total;
}

/** What is sent to the server with the next session. */
export function choices() {
  const silence = /** @type {HTMLSelectElement} */ (element("silence")).value;
  return {
    language: language(),
    partials: isChecked("partials"),
    punctuate: isChecked("punctuate"),
    endpointSilenceMs: silence === "" ? undefined : Number(silence),
    ticket: ticketSource(),
  };
}

export function language() {
  return /** @type {HTMLSelectElement} */ (element("language")).value || undefined;
}

/** @param {string} id */
export function isChecked(id) {
  return /** @type {HTMLInputElement} */ (element(id)).checked;
}

/** Fills the language picker with what the server speaks and brings back what was chosen last time. */
export async function loadChoices() {
  const response = await fetch("offer.json");
  if (!response.ok) throw new Error(`offer.json: HTTP ${response.status}`);
  const { default_language: usual, languages, keys } = await response.json();
  if (keys) askForKey();
  const select = /** @type {HTMLSelectElement} */ (element("language"));
  const names = new Intl.DisplayNames(["en"], { type: "language" });
  const nameOf = (/** @type {string} */ code) => NAMES.get(code) ?? names.of(code) ?? code;
  const mine = navigator.languages.map((code) => code.split("-")[0].toLowerCase());
  const likely = [...new Set([usual, ...mine, "auto"])].filter((code) => languages.includes(code));
  const others = languages.filter((/** @type {string} */ code) => !likely.includes(code));
  others.sort((/** @type {string} */ a, /** @type {string} */ b) => nameOf(a).localeCompare(nameOf(b), "en"));
  const option = (/** @type {string} */ code) => new Option(nameOf(code), code, code === usual, code === usual);
  select.replaceChildren(...likely.map(option));
  if (others.length > 0) select.append(document.createElement("hr"), ...others.map(option));
  restoreChoices(languages);
}

/** @param {string[]} languages */
function restoreChoices(languages) {
  /** @type {any} */
  let kept = {};
  try {
    kept = JSON.parse(localStorage.getItem(CHOICES) ?? "{}");
  } catch {
    // Storage is switched off or holds something else: the page works without.
  }
  if (languages.includes(kept.language)) /** @type {HTMLSelectElement} */ (element("language")).value = kept.language;
  for (const id of ["real-time", "partials", "punctuate"]) {
    if (typeof kept[id] === "boolean") /** @type {HTMLInputElement} */ (element(id)).checked = kept[id];
  }
}

export function keepChoices() {
  const kept = Object.fromEntries(["real-time", "partials", "punctuate"].map((id) => [id, isChecked(id)]));
  try {
    localStorage.setItem(CHOICES, JSON.stringify({ ...kept, language: language() }));
  } catch {
    // As above.
  }
}

const options = /** @type {HTMLDetailsElement} */ (element("options"));
options.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || !options.open) return;
  options.open = false;
  options.querySelector("summary")?.focus();
});
document.addEventListener("pointerdown", (event) => {
  if (!options.contains(/** @type {Node} */ (event.target))) options.open = false;
});
