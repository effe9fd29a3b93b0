/** Finals to the files that people download: plain text, SRT and WebVTT. */

/** @typedef {{text: string, start: number, end: number}} Line Times in seconds. */

const MAX_CUE = 84;
const MAX_ROW = 42;

/** One line for each segment. @param {Line[]} lines */
export function toText(lines) {
  return lines.map(({ text }) => `${text}\n`).join("");
}

/** @param {Line[]} lines */
export function toSrt(lines) {
  const cues = lines.flatMap(split).map(({ text, start, end }, index) => {
    const safe = rows(text).replaceAll("-->", "→");
    return `${index + 1}\n${clock(start, ",")} --> ${clock(end, ",")}\n${safe}\n`;
  });
  return cues.join("\n");
}

/** @param {Line[]} lines */
export function toVtt(lines) {
  const cues = lines.flatMap(split).map(({ text, start, end }) => {
    const safe = rows(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
    return `\n${clock(start, ".")} --> ${clock(end, ".")}\n${safe}\n`;
  });
  return `WEBVTT\n${cues.join("")}`;
}

/** Hours, minutes, seconds and milliseconds. @param {number} seconds @param {string} mark */
export function clock(seconds, mark) {
  const ms = Math.max(0, Math.round(seconds * 1000));
  const parts = [Math.floor(ms / 3600000), Math.floor(ms / 60000) % 60, Math.floor(ms / 1000) % 60];
  return `${parts.map((part) => String(part).padStart(2, "0")).join(":")}${mark}${String(ms % 1000).padStart(3, "0")}`;
}

/**
 * A segment too long for one cue becomes several of about equal length, its time shared out by their characters.
 *
 * @param {Line} line
 * @returns {Line[]}
 */
function split({ text, start, end }) {
  const count = Math.ceil(text.length / MAX_CUE);
  if (count <= 1) return [{ text, start, end }];
  const cues = wrap(text, Math.ceil(text.length / count) + 8);
  const perCharacter = (end - start) / cues.reduce((sum, cue) => sum + cue.length, 0);
  let at = start;
  return cues.map((cue) => {
    const from = at;
    at += cue.length * perCharacter;
    return { text: cue, start: from, end: at };
  });
}

/** Two rows of about equal length where one would be too long. @param {string} text */
function rows(text) {
  if (text.length <= MAX_ROW) return text;
  return wrap(text, Math.ceil(text.length / 2) + 4).join("\n");
}

/** @param {string} text @param {number} most Characters in a piece, unless one word is longer. */
function wrap(text, most) {
  /** @type {string[]} */
  const pieces = [];
  for (const word of text.split(/\s+/).filter(Boolean)) {
    const last = pieces.at(-1);
    if (last !== undefined && last.length + 1 + word.length <= most) pieces[pieces.length - 1] = `${last} ${word}`;
    else pieces.push(word);
  }
  return pieces;
}
