/** A WebSocket whose other end the test plays, and small helpers. */

export class FakeSocket extends EventTarget {
  /** @type {FakeSocket[]} */ static made = [];

  bufferedAmount = 0;
  sent = [];
  closed = null;

  constructor(url, protocols) {
    super();
    this.url = String(url);
    this.protocols = protocols;
    FakeSocket.made.push(this);
  }

  send(data) {
    this.sent.push(typeof data === "string" ? JSON.parse(data) : data);
  }

  close(code) {
    this.closed = code ?? 1005;
  }

  open() {
    this.dispatchEvent(new Event("open"));
  }

  say(...messages) {
    for (const message of messages) {
      this.dispatchEvent(Object.assign(new Event("message"), { data: JSON.stringify(message) }));
    }
  }

  break(code = 1006, reason = "") {
    this.dispatchEvent(Object.assign(new Event("close"), { code, reason }));
  }

  /** Samples and controls in the order in which they were sent, without the greeting. */
  get spoken() {
    return this.sent.slice(1).flatMap((frame) => (frame instanceof Int16Array ? Array.from(frame) : [frame]));
  }
}

export const opened = (fields = {}) => ({
  type: "session",
  session_id: "s1",
  token: "s1.secret",
  resumed: false,
  language: "en",
  encoding: "pcm_s16le",
  sample_rate: 16000,
  audio_offset: 0,
  next_seq: 0,
  resume_window_s: 60,
  ...fields,
});

export const final = (seq, text = `words ${seq}`) => ({
  type: "final", text, is_final: true, language: "en", seq, start: seq, end: seq + 1, confidence: 0.9, punctuated: true,
});

/** `count` samples that tell their own position. */
export const count = (from, to) => Int16Array.from({ length: to - from }, (_, i) => from + i);

/** Lets everything that is due by now happen. */
export async function turn() {
  for (let i = 0; i < 10; i++) await Promise.resolve();
}

export function log(session, ...kinds) {
  const events = [];
  for (const kind of kinds) session.addEventListener(kind, ({ detail }) => events.push([kind, detail]));
  return events;
}
