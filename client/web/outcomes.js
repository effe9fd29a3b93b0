/**
 * How connections and sessions end, and what can be done about it. A part of starling.js.
 *
 * @module outcomes
 */

/** Close codes after which the session is still there: the server drains, broke, was cut off, or gave up waiting. */
export const RESUMABLE_CLOSES = new Set([1001, 1005, 1006, 1011, 1012, 1013, 1014, 4031, 4104]);

/** Close codes after which there is nothing to resume, and what they mean. */
export const FATAL_CLOSES = new Map([
  [1000, "the server closed the session"],
  [1002, "the server found a broken WebSocket frame"],
  [1003, "the server does not take this kind of frame"],
  [1007, "the server found text that is not UTF-8"],
  [1008, "the key was revoked or a limit was passed"],
  [1009, "a frame was over the server's limit"],
  [4000, "the server refused a message"],
  [4004, "the server does not know this session any more"],
  [4008, "the connection was away for too long and the session has been closed"],
  [4103, "another connection took the session over"],
]);

/** HTTP refusals that may pass: the server is full or draining, or a proxy has lost it. */
export const RETRYABLE_STATUSES = new Set([408, 426, 429, 500, 502, 503, 504]);

/** HTTP refusals that another try would meet again, and what to do. */
export const FATAL_STATUSES = new Map([
  [401, "the server wants a valid key or ticket"],
  [403, "the server does not allow this page or key"],
  [404, "the server has no such path; live sessions are at /stream"],
]);

/**
 * Why a session failed for good, or why a call was refused.
 *
 * `kind` is one of: `unreachable` (no server answered), `refused` (HTTP refusal, see `status`), `closed` (closed by the
 * server, see `code`), `lost` (no connection within the resume window), `protocol` (the server sent what it must not),
 * `full` (the audio kept for sending again has reached its limit), `over` (the session was already over).
 */
export class StarlingError extends Error {
  /** @param {string} kind @param {string} message @param {{code?: number, status?: number}} [details] */
  constructor(kind, message, { code, status } = {}) {
    super(message);
    this.name = "StarlingError";
    this.kind = kind;
    this.code = code;
    this.status = status;
  }
}
