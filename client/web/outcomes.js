/**
 * How connections and sessions end, and what can be done about it. A part of starling.js.
 *
 * @module outcomes
 */

/** Close codes after which the session is still there: the server drains, broke, was cut off, or gave up waiting. */
export const RESUMABLE_CLOSES = new Set([1001, 1005, 1006, 1011, 1012, 1013, 1014, 4031, 4104]);

export const TAKEN_OVER = 4103;

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
  [TAKEN_OVER, "another connection took the session over"],
]);

const RELUCTANT = "the server answers but does not take the connection; where it asks for keys, a ticket is needed";

/** HTTP refusals that may pass. 405 and 426 are how a server answers that has nothing against the connection. */
export const PASSING_STATUSES = new Map([
  [405, RELUCTANT],
  [426, RELUCTANT],
  [408, "the server was too slow"],
  [429, "the server gets too many requests"],
  [500, "the server failed"],
  [502, "the server is not there behind its proxy"],
  [503, "the server is full or going down"],
  [504, "the server did not answer its proxy"],
]);

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
