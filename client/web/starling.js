/**
 * Live transcription with a Starling server, from a web page or any JavaScript with WebSocket, fetch and EventTarget.
 *
 *     import { StarlingSession } from "/starling.js";
 *
 *     const session = new StarlingSession("/stream", { language: "en" });
 *     session.addEventListener("partial", ({ detail }) => show(detail.text, detail.stable));
 *     session.addEventListener("final", ({ detail }) => append(detail.text));
 *     session.send(samples);      // Int16Array or Float32Array, mono, 16 kHz unless `sampleRate` says otherwise
 *     await session.end();        // every final has been delivered when this resolves
 *
 * A connection that breaks is made again: audio that the server has not acknowledged is kept and sent again, finals
 * come exactly once and in order, and the transcript is the one that an undisturbed connection gives. What is fatal
 * arrives as an `error` event whose `recoverable` is false, and rejects `opened`, `finalize()` and `end()`.
 *
 * No dependencies. The wire protocol is described in docs/protocol.md.
 *
 * @module starling
 */

/**
 * @typedef {object} SessionOptions
 * @property {string} [language] Language code, "auto" where the server offers it. Default: the server's.
 * @property {number} [sampleRate] Samples per second that `send` will be given, 8000 to 48000. Default 16000.
 * @property {boolean} [partials] Whether words are wanted while they are being said. Default true.
 * @property {boolean} [punctuate] Whether finals are to be punctuated. Default true.
 * @property {number} [endpointSilenceMs] Silence that ends a segment, 200 to 3000.
 * @property {string} [label] A name for the session in the server's transcript store.
 * @property {() => string | Promise<string>} [ticket] Called before each connection where the server asks for keys;
 *   gives a single-use ticket, which is offered as the subprotocol `starling.ticket.TICKET` beside `starling.v1`. A
 *   `StarlingError` that it throws ends the session; after any other it is asked again.
 * @property {number} [maxUnacknowledgedS] Seconds of audio kept for sending again. Default 120.
 * @property {number} [connectTimeoutMs] Limit on opening the session, all attempts together. Default 15000.
 * @property {number} [attemptTimeoutMs] Limit on one attempt to connect. Default 10000.
 * @property {number} [reconnectTimeoutMs] Limit on coming back after a break. Default: the session's resume window.
 * @property {number} [deadAfterMs] A connection that answers nothing for so long, though answers are due, is made
 *   again. Default 20000, and 40000 without partials.
 * @property {typeof WebSocket} [WebSocket] Another implementation, for tests or older runtimes.
 * @property {typeof fetch} [fetch] Another implementation.
 */

/**
 * What the events carry as `detail`: the server's message as it came, with the protocol's field names. Times are
 * seconds of audio, offsets are samples, both since the session's first sample.
 *
 * | event           | detail                                                                                     |
 * | --------------- | ------------------------------------------------------------------------------------------ |
 * | `session`       | `session_id`, `language`, `sample_rate`, `resumed`, `audio_offset`, `next_seq`, ...        |
 * | `partial`       | `text`, `stable` (leading characters that stay), `seq`, `start`, `end`, `language`         |
 * | `final`         | `text`, `seq`, `start`, `end`, `confidence`, `punctuated`, `language`                      |
 * | `ack`           | `audio_offset`                                                                             |
 * | `speechstarted`, `speechended` | `at`                                                                        |
 * | `finalized`     | `id`, `audio_offset`                                                                       |
 * | `error`         | `code`, `message`, `recoverable`; a fatal one also has `error`, the `StarlingError`        |
 * | `done`          | `audio_offset`, `segments`, `audio_seconds`                                                |
 * | `state`         | `state`; while reconnecting `attempt`, `retryInMs`, `cause`                                |
 *
 * @typedef {"connecting" | "live" | "reconnecting" | "ended" | "failed" | "closed"} State
 */

import { END, Journal, MAX_FRAME_SAMPLES } from "./journal.js";
import { FATAL_CLOSES, FATAL_STATUSES, PASSING_STATUSES, RESUMABLE_CLOSES, StarlingError, TAKEN_OVER } from "./outcomes.js";

export { StarlingError };

/** @typedef {import("./journal.js").Control} Control */

const SECOND = 1000;
const BACKOFF_BASE_MS = 250;
const BACKOFF_CAP_MS = 8000;
const KEEPALIVE_MS = 5000;
const WATCH_MS = 1000;
const PUMP_MS = 20;
const PROBE_TIMEOUT_MS = 4000;
const MAX_BUFFERED_BYTES = 1 << 17;
const MAX_CONTROLS = 1000;
const MAX_FAULTS = 3;
const ABNORMAL = 1006;
const KEEPALIVE = JSON.stringify({ type: "keepalive" });

/** A signal within this module: the connection cannot be trusted, a new one can mend it. */
class ResumeNeeded extends Error {}

/** A live session over as many connections as it takes. See the module's description for an example. */
export class StarlingSession extends EventTarget {
  #url;
  #options;
  #journal;
  #start;
  /** @type {State} */ #state = "connecting";
  /** @type {any} */ #info = null;
  #token = "";
  #lastSeq = -1;
  #replayUntil = -1;
  #endWasSent = false;
  /** @type {any} */ #lastError = null;
  #faults = 0;
  #attempt = 0;
  #backoff = 0;
  #offlineSince = now();
  #speechAt = { speech_started: -1, speech_ended: -1 };
  /** @type {Link | null} */ #link = null;
  /** @type {ReturnType<typeof setTimeout> | undefined} */ #retryTimer;
  #opened = deferred();
  #over = deferred();
  /** @type {Map<string, ReturnType<typeof deferred>>} */ #finalizes = new Map();
  #nextFinalize = 1;
  /** @type {(() => void)[]} */ #roomWaiters = [];
  #network = new AbortController();
  #attempts = 0;
  /** A resume has been sent and not answered. */
  #unanswered = false;
  /** Resumes that brought no session: a line, or a store, that stalled may have each of them take the session yet. */
  #strays = 0;
  /** @type {StarlingError | null} */ #failure = null;

  /** @typedef {{socket: WebSocket, abort: AbortController, live: boolean, heardAt: number, sentAt: number,
   *             waitsSince: number, timers: ReturnType<typeof setTimeout>[], pump?: ReturnType<typeof setTimeout>}} Link */

  /**
   * Begins to connect at once; listeners added in the same turn miss nothing.
   *
   * @param {string | URL} url Of the server's `/stream`: ws, wss, http or https, or relative to the page.
   * @param {SessionOptions} [options]
   */
  constructor(url, options = {}) {
    super();
    this.#url = new URL(url, globalThis.location?.href);
    this.#url.protocol = this.#url.protocol.replace("http", "ws");
    if (!/^wss?:$/.test(this.#url.protocol)) throw new TypeError(`${url} is not an address like wss://HOST/stream`);
    const { sampleRate = 16000, partials = true, punctuate = true, endpointSilenceMs: silence } = options;
    if (!(Number.isInteger(sampleRate) && sampleRate >= 8000 && sampleRate <= 48000)) {
      throw new RangeError(`sampleRate is ${sampleRate}: it must be 8000 to 48000, so resample first`);
    }
    if (silence !== undefined && !(Number.isInteger(silence) && silence >= 200 && silence <= 3000)) {
      throw new RangeError(`endpointSilenceMs is ${silence}: it must be 200 to 3000`);
    }
    this.#options = {
      maxUnacknowledgedS: 120,
      connectTimeoutMs: 15 * SECOND,
      attemptTimeoutMs: 10 * SECOND,
      deadAfterMs: (partials ? 20 : 40) * SECOND,
      WebSocket: globalThis.WebSocket,
      fetch: globalThis.fetch?.bind(globalThis),
      ...options,
      sampleRate,
    };
    this.#start = JSON.stringify({
      type: "start",
      encoding: "pcm_s16le",
      sample_rate: sampleRate,
      partials,
      punctuate,
      language: options.language,
      endpoint_silence_ms: silence,
      session_label: options.label,
    });
    this.#journal = new Journal(Math.floor(this.#options.maxUnacknowledgedS * sampleRate));
    this.#watchNetwork();
    queueMicrotask(() => this.#connect());
  }

  /** Where the session stands. @returns {State} */
  get state() {
    return this.#state;
  }

  /** Resolves with the `session` message once the server has accepted; rejects with a `StarlingError`. */
  get opened() {
    return this.#opened.promise;
  }

  /** The server's name for the session, empty before it is open. */
  get sessionId() {
    return this.#info?.session_id ?? "";
  }

  /** Seconds of audio handed to `send` so far. */
  get writtenSeconds() {
    return this.#journal.tail / this.#options.sampleRate;
  }

  /** Seconds of audio that have left for the server; goes back when audio is sent again. */
  get sentSeconds() {
    const waiting = (this.#link?.socket.bufferedAmount ?? 0) / Int16Array.BYTES_PER_ELEMENT;
    return Math.max(0, this.#journal.cursor - waiting) / this.#options.sampleRate;
  }

  /** Seconds of audio that the server will not ask for again. */
  get acknowledgedSeconds() {
    return Math.min(this.#journal.acknowledged, this.#journal.tail) / this.#options.sampleRate;
  }

  /**
   * Sends audio, or keeps it while there is no connection.
   *
   * @param {Int16Array | Float32Array} samples Mono; floats from -1 to 1. May be reused after the call.
   * @throws {StarlingError} `full` when `maxUnacknowledgedS` of audio are kept already (nothing of `samples` is taken
   *   then; a source that can wait awaits `room` first), `over` when the session has ended.
   */
  send(samples) {
    this.#checkWritable();
    if (samples.length > this.#journal.room) {
      const limit = this.#options.maxUnacknowledgedS;
      throw new StarlingError("full", `${limit} s of audio wait for the server: stop sending until it is back`);
    }
    this.#journal.append(samples instanceof Float32Array ? toInt16(samples) : samples);
    this.#pump();
  }

  /**
   * Resolves when `send` will take so many samples; for sources faster than real time, such as files.
   *
   * Also keeps such a source from running far ahead of the network.
   *
   * @param {number} samples
   */
  async room(samples) {
    const most = Math.max(samples, 4 * MAX_FRAME_SAMPLES);
    for (;;) {
      this.#checkWritable();
      const { tail, cursor, room } = this.#journal;
      if (room >= samples && tail - cursor + samples <= most) return;
      await new Promise((resolve) => this.#roomWaiters.push(() => resolve(undefined)));
    }
  }

  /** Changes the language from the next segment on. @param {string} language */
  setLanguage(language) {
    this.#checkControls();
    this.#journal.add("language", language);
    this.#pump();
  }

  /**
   * Ends the open segment now.
   *
   * @returns {Promise<{id: string, audio_offset: number}>} Resolves after the final that it caused.
   */
  finalize() {
    this.#checkControls();
    const id = `f${this.#nextFinalize++}`;
    const answer = deferred();
    this.#finalizes.set(id, answer);
    this.#journal.add("finalize", id);
    this.#pump();
    return answer.promise;
  }

  /**
   * Says that no more audio comes.
   *
   * @returns {Promise<{audio_offset: number, segments: number, audio_seconds: number}>} Resolves when every final has
   *   been delivered; rejects with the `StarlingError` that ended the session.
   */
  end() {
    if (!this.#isOver && !this.#journal.ended) {
      this.#journal.add("end");
      this.#pump();
    }
    return this.#over.promise;
  }

  /** Gives the session up without waiting for what is not final yet. Does nothing when it is over. */
  close() {
    if (this.#isOver) return;
    const link = this.#link;
    this.#dropLink();
    link?.socket.close(1000);
    this.#finish("closed", new StarlingError("over", "the session was closed"));
  }

  // --- connections

  get #isOver() {
    return this.#state === "ended" || this.#state === "failed" || this.#state === "closed";
  }

  async #connect() {
    if (this.#isOver) return;
    const number = ++this.#attempts;
    const protocols = [];
    if (this.#options.ticket) {
      try {
        protocols.push("starling.v1", `starling.ticket.${await this.#options.ticket()}`);
      } catch (error) {
        if (this.#isOver || number !== this.#attempts) return;
        if (error instanceof StarlingError) return this.#fail(error);
        return this.#retry(`no ticket: ${error instanceof Error ? error.message : error}`, 0, undefined);
      }
      if (this.#isOver || number !== this.#attempts) return;
    }
    const address = new URL(this.#url);
    // A session that goes on is named here already: a server that is full takes no others.
    if (this.#info !== null) address.searchParams.set("resume", this.#info.session_id);
    const socket = new this.#options.WebSocket(address, protocols);
    socket.binaryType = "arraybuffer";
    const at = now();
    /** @type {Link} */
    const link = {
      socket,
      abort: new AbortController(),
      live: false,
      heardAt: at,
      sentAt: at,
      waitsSince: at,
      timers: [],
    };
    this.#link = link;
    this.#lastError = null;
    let wasOpen = false;
    const { signal } = link.abort;
    socket.addEventListener("open", () => {
      wasOpen = true;
      this.#greet(link);
    }, { signal });
    socket.addEventListener("message", (event) => this.#receive(link, event.data), { signal });
    socket.addEventListener("close", ({ code, reason }) => {
      this.#dropLink();
      if (wasOpen) this.#connectionLost(code, reason);
      else this.#explainRefusal(number);
    }, { signal });
    link.timers.push(
      setTimeout(() => !link.live && this.#giveUp("the server did not answer in time"), this.#options.attemptTimeoutMs),
    );
  }

  /** @param {Link} link */
  #greet(link) {
    link.heardAt = link.sentAt = now();
    if (this.#info === null) {
      this.#journal.restart();
      link.socket.send(this.#start);
    } else {
      const resume = { type: "resume", token: this.#token, last_seq: this.#lastSeq, from_offset: this.#journal.rewind() };
      link.socket.send(JSON.stringify(resume));
      this.#unanswered = true;
    }
  }

  /** A connection that hangs tells nobody: drops it and goes on as if it had broken. @param {string} cause */
  #giveUp(cause) {
    const socket = this.#link?.socket;
    this.#dropLink();
    socket?.close();
    this.#connectionLost(ABNORMAL, cause);
  }

  #dropLink() {
    const link = this.#link;
    if (link === null) return;
    this.#link = null;
    link.abort.abort();
    for (const timer of [...link.timers, link.pump]) clearTimeout(timer);
  }

  /** Browsers do not say why a WebSocket was refused; a plain request to the same address does. @param {number} number */
  async #explainRefusal(number) {
    const url = new URL(this.#url);
    url.protocol = url.protocol.replace("ws", "http");
    let status, retryAfterMs = 0;
    try {
      const { fetch } = this.#options;
      // Of one's own origin, browsers name the origin only in a POST.
      const signal = AbortSignal.timeout(PROBE_TIMEOUT_MS);
      const response = await fetch(url, { method: "POST", cache: "no-store", signal });
      status = response.status;
      retryAfterMs = (Number(response.headers.get("Retry-After")) || 0) * SECOND;
    } catch {
      // Not reachable, or of another origin that does not let this page read the answer.
    }
    if (this.#isOver || number !== this.#attempts) return;
    if (status !== undefined && !PASSING_STATUSES.has(status)) {
      const meaning = FATAL_STATUSES.get(status) ?? "the server refused the session";
      return this.#fail(new StarlingError("refused", `${meaning} (HTTP ${status})`, { status }));
    }
    if (status === undefined && this.#info === null) {
      return this.#fail(new StarlingError("unreachable", `no server answers at ${this.#url.origin}`));
    }
    this.#retry(PASSING_STATUSES.get(status ?? 0) ?? "the server cannot be reached", retryAfterMs, status);
  }

  /** @param {number} code @param {string} reason */
  #connectionLost(code, reason) {
    if (this.#isOver) return;
    const error = this.#lastError;
    const text = error?.message ?? reason;
    if (this.#unanswered) this.#strays++;
    this.#unanswered = false;
    // Most likely by a resume of our own that came late, from which nobody reads: it is taken back, once for each.
    const isOwn = code === TAKEN_OVER && this.#strays > 0;
    if (isOwn) this.#strays--;
    if (!isOwn && !RESUMABLE_CLOSES.has(code) && (FATAL_CLOSES.has(code) || !error?.recoverable)) {
      if (code === 4004 && this.#nothingIsMissing()) return this.#complete(this.#ownDone());
      const meaning = FATAL_CLOSES.get(code) ?? "the server closed the session";
      return this.#fail(new StarlingError("closed", `${meaning} (${code}${text ? `: ${text}` : ""})`, { code }));
    }
    this.#retry(text || `the connection was lost (${code})`, error?.retry_after_ms ?? 0, undefined);
  }

  /**
   * Exponential backoff with full jitter (Brooker, "Exponential Backoff and Jitter", 2015), after what the server asks.
   *
   * @param {string} cause @param {number} retryAfterMs @param {number | undefined} status
   */
  #retry(cause, retryAfterMs, status) {
    if (this.#state === "live") this.#offlineSince = now();
    const ceiling = Math.min(BACKOFF_CAP_MS, BACKOFF_BASE_MS * 2 ** Math.min(this.#backoff++, 16));
    const delay = retryAfterMs + Math.random() * ceiling;
    const { connectTimeoutMs, reconnectTimeoutMs } = this.#options;
    const window = this.#info === null ? connectTimeoutMs : reconnectTimeoutMs ?? this.#info.resume_window_s * SECOND;
    if (now() - this.#offlineSince + delay > window) {
      const seconds = Math.round(window / SECOND);
      const kind = this.#info !== null ? "lost" : status === undefined ? "unreachable" : "refused";
      return this.#fail(new StarlingError(kind, `no connection within ${seconds} s (last: ${cause})`, { status }));
    }
    this.#attempt++;
    const state = this.#info === null ? "connecting" : "reconnecting";
    this.#setState(state, { attempt: this.#attempt, retryInMs: Math.round(delay), cause });
    this.#retryTimer = setTimeout(() => this.#connect(), delay);
  }

  #watchNetwork() {
    if (typeof globalThis.addEventListener !== "function") return;
    const { signal } = this.#network;
    globalThis.addEventListener("offline", () => {
      // A server on this machine is still there: the next attempt finds it.
      if (this.#link !== null && this.#info !== null) this.#giveUp("the network is gone");
    }, { signal });
    globalThis.addEventListener("online", () => {
      if (this.#link !== null || this.#state !== "reconnecting") return;
      clearTimeout(this.#retryTimer);
      this.#backoff = 0;
      this.#connect();
    }, { signal });
  }

  // --- sending

  #pump() {
    const link = this.#link;
    if (link === null || !link.live) return;
    clearTimeout(link.pump);
    while (link.socket.bufferedAmount < MAX_BUFFERED_BYTES) {
      const wasWaiting = this.#isWaiting;
      const frame = this.#journal.next();
      if (frame === null) break;
      if (!wasWaiting) link.waitsSince = now();
      link.socket.send(frame);
      link.sentAt = now();
      this.#endWasSent ||= frame === END;
    }
    if (this.#journal.hasMore) link.pump = setTimeout(() => this.#pump(), PUMP_MS);
    this.#wakeRoom();
  }

  #wakeRoom() {
    for (const wake of this.#roomWaiters.splice(0)) wake();
  }

  /** Whether the server owes an answer. */
  get #isWaiting() {
    return this.#journal.cursor > this.#journal.acknowledged || this.#endWasSent || this.#finalizes.size > 0;
  }

  /** @param {Link} link */
  #watch(link) {
    const at = now();
    if (at - link.sentAt >= KEEPALIVE_MS) {
      link.socket.send(KEEPALIVE);
      link.sentAt = at;
    }
    if (this.#isWaiting && at - Math.max(link.heardAt, link.waitsSince) > this.#options.deadAfterMs) {
      this.#giveUp(`the server said nothing for ${Math.round(this.#options.deadAfterMs / SECOND)} s`);
    }
  }

  // --- receiving

  /** @param {Link} link @param {unknown} data */
  #receive(link, data) {
    link.heardAt = now();
    try {
      const message = parse(data);
      if (!link.live && message.type !== "session" && message.type !== "error") {
        throw new StarlingError("protocol", `the server's first message is ${message.type}, not session`);
      }
      this.#handle(message, link);
      if (this.#link !== link) return;
      if (this.#info?.resumed && this.#lastSeq >= this.#replayUntil) this.#settle(this.#journal.settledFinalizes());
      this.#pump();
    } catch (error) {
      if (error instanceof ResumeNeeded) return this.#giveUp(error.message);
      if (!(error instanceof StarlingError)) throw error;
      this.#dropLink();
      link.socket.close();
      this.#fail(error);
    }
  }

  /** @param {any} message @param {Link} link */
  #handle(message, link) {
    switch (message.type) {
      case "session":
        return this.#onSession(message, link);
      case "partial":
        if (message.seq > this.#lastSeq) this.#emit("partial", message);
        return;
      case "final":
        return this.#onFinal(message);
      case "ack":
        return this.#onAck(message);
      case "speech_started":
      case "speech_ended":
        return this.#onSpeech(message);
      case "finalized": {
        // Answers come in order: one that did not come before this was lost with an earlier connection.
        const answered = this.#journal.unansweredUntil(message.id);
        if (answered.length === 0) return;
        this.#settle(answered.slice(0, -1));
        answered[answered.length - 1].answered = true;
        return this.#answer(message);
      }
      case "error":
        this.#lastError = message;
        // A fatal one is followed by the close, which says whether the session can go on all the same.
        if (message.recoverable) this.#emit("error", message);
        return;
      case "done":
        return this.#onDone(message);
    }
  }

  /** @param {any} message @param {Link} link */
  #onSession(message, link) {
    if (link.live || message.resumed !== (this.#info !== null)) {
      throw new StarlingError("protocol", "the server sent a session message that was not asked for");
    }
    const { token, ...info } = message;
    if (info.encoding !== "pcm_s16le" || info.sample_rate !== this.#options.sampleRate) {
      throw new StarlingError("protocol", `the server chose ${info.encoding} at ${info.sample_rate} Hz`);
    }
    if (this.#info !== null) this.#journal.replayControls(info.audio_offset, this.#info.language);
    this.#token = token;
    this.#info = { ...info, language: this.#info?.language ?? info.language };
    this.#replayUntil = info.next_seq - 1;
    this.#attempt = 0;
    link.live = true;
    this.#unanswered = false;
    link.waitsSince = now();
    const watch = setInterval(() => this.#watch(link), WATCH_MS);
    link.abort.signal.addEventListener("abort", () => clearInterval(watch));
    this.#setState("live");
    this.#emit("session", info);
    this.#opened.resolve(info);
  }

  /** @param {any} final */
  #onFinal(final) {
    if (final.seq <= this.#lastSeq) return;
    if (final.seq > this.#lastSeq + 1) {
      const text = `final ${final.seq} came after ${this.#lastSeq}: one is missing`;
      throw ++this.#faults < MAX_FAULTS ? new ResumeNeeded(text) : new StarlingError("protocol", text);
    }
    this.#lastSeq = final.seq;
    this.#progress();
    this.#emit("final", final);
  }

  /** @param {any} ack */
  #onAck(ack) {
    if (ack.audio_offset > this.#journal.tail) {
      throw new StarlingError("protocol", `the server acknowledged sample ${ack.audio_offset} of ${this.#journal.tail}`);
    }
    if (!this.#journal.acknowledge(ack.audio_offset)) return;
    this.#progress();
    this.#emit("ack", ack);
  }

  /** @param {any} message */
  #onSpeech(message) {
    const kind = /** @type {"speech_started" | "speech_ended"} */ (message.type);
    // Audio that is sent again is heard again; the page has been told.
    if (message.at <= this.#speechAt[kind]) return;
    this.#speechAt[kind] = message.at;
    this.#emit(kind.replace("_", ""), message);
  }

  /** @param {any} done */
  #onDone(done) {
    if (!this.#endWasSent) throw new StarlingError("protocol", "the server said done before the end");
    if (done.segments > this.#lastSeq + 1) {
      const text = `the server counts ${done.segments} segments, but ${this.#lastSeq + 1} finals came`;
      throw new StarlingError("protocol", text);
    }
    const socket = this.#link?.socket;
    this.#dropLink();
    socket?.close(1000);
    this.#complete(done);
  }

  #progress() {
    this.#backoff = 0;
    this.#faults = 0;
  }

  /** @param {Control[]} controls */
  #settle(controls) {
    for (const control of controls) {
      control.answered = true;
      this.#answer({ type: "finalized", id: control.value, audio_offset: control.position });
    }
  }

  /** @param {any} message */
  #answer(message) {
    this.#emit("finalized", message);
    this.#finalizes.get(message.id)?.resolve(message);
    this.#finalizes.delete(message.id);
  }

  // --- the end

  #nothingIsMissing() {
    // The server deletes a session when it ends, so a `done` that was lost on the way cannot be asked for again. The
    // finals are all here if everything was acknowledged, as an ack never overtakes its final.
    return this.#journal.ended && this.#journal.acknowledged >= this.#journal.tail;
  }

  #ownDone() {
    const { tail } = this.#journal;
    return { type: "done", audio_offset: tail, segments: this.#lastSeq + 1, audio_seconds: this.writtenSeconds };
  }

  /** @param {any} done */
  #complete(done) {
    this.#settle(this.#journal.pendingFinalizes);
    this.#over.resolve(done);
    this.#finish("ended", new StarlingError("over", "the session has ended"));
    this.#emit("done", done);
  }

  /** @param {StarlingError} error */
  #fail(error) {
    this.#finish("failed", error);
    const { message, code, status } = error;
    this.#emit("error", { type: "error", code: code ?? status ?? 0, message, recoverable: false, error });
  }

  /** @param {State} state @param {StarlingError} error For whoever still waits for something. */
  #finish(state, error) {
    this.#failure = error;
    clearTimeout(this.#retryTimer);
    this.#network.abort();
    this.#setState(state);
    for (const waiter of [this.#opened, this.#over, ...this.#finalizes.values()]) waiter.reject(error);
    this.#wakeRoom();
  }

  #checkWritable() {
    if (this.#isOver) throw this.#failure;
    if (this.#journal.ended) throw new StarlingError("over", "the session was ended: open a new one to send more");
  }

  #checkControls() {
    this.#checkWritable();
    if (this.#journal.controlCount >= MAX_CONTROLS) {
      throw new StarlingError("full", `${MAX_CONTROLS} controls wait for the server`);
    }
  }

  /** @param {State} state @param {object} [details] */
  #setState(state, details = {}) {
    this.#state = state;
    this.#emit("state", { state, ...details });
  }

  /** @param {string} name @param {object} detail */
  #emit(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }
}

/**
 * The text of a partial in two: what stays and what may still change.
 *
 * The protocol counts characters where JavaScript counts UTF-16 units, so a plain `slice` can be off.
 *
 * @param {{text: string, stable: number}} partial
 * @returns {[string, string]}
 */
export function splitStable({ text, stable }) {
  const characters = Array.from(text);
  return [characters.slice(0, stable).join(""), characters.slice(stable).join("")];
}

/** @param {unknown} data @returns {any} */
function parse(data) {
  let message;
  try {
    message = JSON.parse(/** @type {string} */ (data));
  } catch {
    // Falls through to the error below.
  }
  if (typeof message?.type !== "string") {
    throw new StarlingError("protocol", "the server sent what is not a message; is this a /stream address?");
  }
  return message;
}

/** @param {Float32Array} floats */
function toInt16(floats) {
  const samples = new Int16Array(floats.length);
  for (let i = 0; i < floats.length; i++) {
    const value = Math.max(-1, Math.min(1, floats[i])) * 32768;
    samples[i] = Math.min(32767, Math.round(value));
  }
  return samples;
}

function now() {
  return performance.now();
}

function deferred() {
  /** @type {(value: any) => void} */ let resolve = () => {};
  /** @type {(error: unknown) => void} */ let reject = () => {};
  const promise = new Promise((yes, no) => {
    resolve = yes;
    reject = no;
  });
  promise.catch(() => {}); // The same news comes as an `error` event: nobody has to wait for both.
  return { promise, resolve, reject };
}
