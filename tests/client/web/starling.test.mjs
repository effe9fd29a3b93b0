import assert from "node:assert/strict";
import { beforeEach, mock, test } from "node:test";

import { splitStable, StarlingError, StarlingSession } from "../../../client/web/starling.js";
import { count, FakeSocket, final, log, opened, turn } from "./fakes.mjs";

let clock = 0;
mock.method(performance, "now", () => clock);
mock.method(Math, "random", () => 0.5);

beforeEach(() => {
  mock.timers.reset();
  mock.timers.enable({ apis: ["setTimeout", "setInterval"] });
  FakeSocket.made = [];
  clock = 0;
});

async function pass(ms) {
  for (const until = clock + ms; clock < until; ) {
    const step = Math.min(50, until - clock);
    clock += step;
    mock.timers.tick(step);
    await turn();
  }
}

const refusal = (status, headers = {}) => async () => new Response("", { status, headers });
const unreachable = async () => {
  throw new TypeError("no route");
};

function make(options = {}) {
  return new StarlingSession("http://server/stream", { WebSocket: FakeSocket, fetch: unreachable, ...options });
}

async function live(options = {}, fields = {}) {
  const session = make(options);
  await turn();
  const [socket] = FakeSocket.made;
  socket.open();
  socket.say(opened(fields));
  return { session, socket };
}

/** Breaks the newest connection, waits for the next one and opens it. */
async function reconnect(fields = {}, code = 1006) {
  FakeSocket.made.at(-1).break(code);
  return again(fields);
}

async function again(fields = {}) {
  const before = FakeSocket.made.length;
  while (FakeSocket.made.length === before) await pass(50);
  const socket = FakeSocket.made.at(-1);
  socket.open();
  socket.say(opened({ resumed: true, ...fields }));
  return socket;
}

test("begins with the settings as the protocol names them", async () => {
  const session = make({ language: "te", sampleRate: 8000, partials: false, endpointSilenceMs: 300, label: "<b>" });
  await turn();
  const [socket] = FakeSocket.made;
  assert.equal(socket.url, "ws://server/stream");
  socket.open();
  assert.deepEqual(socket.sent, [{
    type: "start", encoding: "pcm_s16le", sample_rate: 8000, partials: false, punctuate: true, language: "te",
    endpoint_silence_ms: 300, session_label: "<b>",
  }]);
  socket.say(opened({ sample_rate: 8000 }));
  const info = await session.opened;
  assert.equal(info.session_id, "s1");
  assert.equal("token" in info, false, "what is shown to the page holds no secret");
  assert.equal(session.state, "live");
});

test("audio that was said before the session was open is sent once it is", async () => {
  const session = make();
  session.send(count(0, 100));
  await turn();
  FakeSocket.made[0].open();
  assert.equal(FakeSocket.made[0].sent.length, 1);
  FakeSocket.made[0].say(opened());
  assert.deepEqual(FakeSocket.made[0].spoken, Array.from(count(0, 100)));
});

test("floats become 16-bit samples and the caller's array may be used again", async () => {
  const { session, socket } = await live();
  const floats = Float32Array.of(0, 1, -1, 0.5, 2, -2);
  session.send(floats);
  floats.fill(0);
  assert.deepEqual(socket.spoken, [0, 32767, -32768, 16384, 32767, -32768]);
});

test("what was not acknowledged is sent again, from the acknowledged sample on", async () => {
  const { session, socket } = await live();
  session.send(count(0, 500));
  socket.say(final(0), { type: "ack", audio_offset: 200 });
  const next = await reconnect({ audio_offset: 200, next_seq: 1 });
  session.send(count(500, 600));
  assert.deepEqual(next.sent[0], { type: "resume", token: "s1.secret", last_seq: 0, from_offset: 200 });
  assert.deepEqual(next.spoken, Array.from(count(200, 600)));
});

test("audio said without a connection follows in order", async () => {
  const { session, socket } = await live();
  session.send(count(0, 10));
  socket.break();
  session.send(count(10, 20));
  assert.equal(session.state, "reconnecting");
  assert.deepEqual((await again({ audio_offset: 10 })).spoken, Array.from(count(0, 20)));
});

test("what is acknowledged while it is sent again is still sent, as the server counts from where it began", async () => {
  const { session, socket } = await live();
  const high = 1 << 20;
  session.send(count(0, 1000));
  socket.break();
  while (FakeSocket.made.length === 1) await pass(50);
  const next = FakeSocket.made[1];
  next.open();
  next.bufferedAmount = high;
  next.say(opened({ resumed: true, audio_offset: 1000 }), { type: "ack", audio_offset: 900 });
  session.send(count(1000, 30000));
  assert.deepEqual(next.spoken, []);
  next.bufferedAmount = 0;
  await pass(50);
  assert.equal(next.sent[0].from_offset, 0);
  assert.deepEqual(next.spoken, Array.from(count(0, 30000)));
});

test("each final comes once and in order, whatever is sent again", async () => {
  const { session, socket } = await live();
  const events = log(session, "final");
  session.send(count(0, 10));
  socket.say(final(0), final(0));
  const next = await reconnect({ next_seq: 2 });
  next.say(final(0), final(1), final(1));
  assert.deepEqual(events.map(([, detail]) => detail.seq), [0, 1]);
});

test("a final that is missing makes the connection new, three times a failure", async () => {
  const { session, socket } = await live();
  session.send(count(0, 10));
  socket.say(final(1));
  assert.equal(session.state, "reconnecting");
  assert.notEqual(socket.closed, null);
  (await again()).say(final(1));
  assert.equal(session.state, "reconnecting");
  (await again()).say(final(1));
  assert.equal(session.state, "failed");
  await assert.rejects(session.end(), { kind: "protocol" });
});

test("no partial comes after the final of its segment", async () => {
  const { session, socket } = await live();
  const events = log(session, "partial");
  const partial = (seq) => ({ type: "partial", text: "x", seq, stable: 0, start: 0, end: 1, language: "en" });
  socket.say(partial(0), final(0), partial(0), partial(1));
  assert.deepEqual(events.map(([, detail]) => detail.seq), [0, 1]);
});

test("speech that is heard again is not told again", async () => {
  const { session, socket } = await live();
  const events = log(session, "speechstarted", "speechended");
  session.send(count(0, 10));
  socket.say({ type: "speech_started", at: 1 });
  const next = await reconnect();
  next.say({ type: "speech_started", at: 1 }, { type: "speech_ended", at: 2 });
  assert.deepEqual(events.map(([kind]) => kind), ["speechstarted", "speechended"]);
});

test("controls keep their place in the audio and are sent again where they were not handled", async () => {
  const { session, socket } = await live();
  session.send(count(0, 5));
  const answer = session.finalize();
  session.send(count(5, 8));
  session.setLanguage("fr");
  session.send(count(8, 10));
  const finalize = { type: "finalize", id: "f1" };
  assert.deepEqual(socket.spoken, [0, 1, 2, 3, 4, finalize, 5, 6, 7, { language: "fr" }, 8, 9]);
  const next = await reconnect({ audio_offset: 4 });
  assert.deepEqual(next.spoken, [0, 1, 2, 3, { language: "en" }, 4, finalize, 5, 6, 7, { language: "fr" }, 8, 9]);
  next.say({ type: "finalized", id: "f1", audio_offset: 5 });
  assert.deepEqual(await answer, { type: "finalized", id: "f1", audio_offset: 5 });
});

test("a control at the very sample that is wanted next was not handled", async () => {
  const { session, socket } = await live();
  session.send(count(0, 5));
  session.finalize();
  assert.equal(socket.spoken.length, 6);
  const next = await reconnect({ audio_offset: 5 });
  assert.deepEqual(next.spoken, [0, 1, 2, 3, 4, { type: "finalize", id: "f1" }]);
});

test("a resumed server is told the language as it was where it goes on", async () => {
  const { session, socket } = await live();
  session.send(count(0, 5));
  session.setLanguage("fr");
  session.send(count(5, 10));
  socket.say({ type: "ack", audio_offset: 8 });
  const next = await reconnect({ audio_offset: 8 });
  assert.deepEqual(next.spoken, [{ language: "fr" }, 8, 9]);
});

test("a finalize whose answer was lost is answered by what is acknowledged", async () => {
  const { session, socket } = await live();
  session.send(count(0, 5));
  const answer = session.finalize();
  session.send(count(5, 6));
  socket.break();
  const next = await again({ audio_offset: 6, next_seq: 1 });
  assert.equal(next.spoken.some((frame) => frame.type === "finalize"), false);
  next.say(final(0), { type: "ack", audio_offset: 5 });
  assert.equal((await answer).id, "f1");
});

test("end resolves with done, and what comes after it is refused", async () => {
  const { session, socket } = await live();
  const events = log(session, "done", "state");
  session.send(count(0, 5));
  const end = session.end();
  assert.throws(() => session.send(count(5, 6)), { kind: "over" });
  assert.deepEqual(socket.sent.at(-1), { type: "end" });
  const done = { type: "done", audio_offset: 5, segments: 1, audio_seconds: 0.1 };
  socket.say(final(0), done);
  assert.deepEqual(await end, done);
  assert.equal(socket.closed, 1000);
  assert.deepEqual(events, [["state", { state: "ended" }], ["done", done]]);
  socket.break(1000);
  assert.equal(session.state, "ended");
});

test("a done that counts more finals than came is an error", async () => {
  const { session, socket } = await live();
  session.send(count(0, 5));
  const end = session.end();
  socket.say({ type: "done", audio_offset: 5, segments: 1, audio_seconds: 0.1 });
  await assert.rejects(end, { kind: "protocol" });
});

test("a session that is gone after the end is complete where all was acknowledged, and lost where not", async () => {
  for (const [acknowledged, state] of [[5, "ended"], [4, "failed"]]) {
    FakeSocket.made = [];
    const { session, socket } = await live();
    session.send(count(0, 5));
    const end = session.end();
    socket.say(final(0), { type: "ack", audio_offset: acknowledged });
    socket.break();
    while (FakeSocket.made.length === 1) await pass(50);
    FakeSocket.made[1].open();
    FakeSocket.made[1].say({ type: "error", code: 4004, message: "no such session", recoverable: false });
    FakeSocket.made[1].break(4004);
    assert.equal(session.state, state);
    if (state === "ended") assert.equal((await end).segments, 1);
    else await assert.rejects(end, { kind: "closed", code: 4004 });
  }
});

for (const code of [1001, 1006, 1011, 1012, 1013, 4031, 4104]) {
  test(`a close with ${code} is mended`, async () => {
    const { session } = await live();
    session.send(count(0, 5));
    await reconnect({}, code);
    assert.equal(session.state, "live");
  });
}

for (const code of [1000, 1008, 1009, 4000, 4004, 4008, 4103]) {
  test(`a close with ${code} is final`, async () => {
    const { session, socket } = await live();
    const events = log(session, "error");
    socket.say({ type: "error", code, message: "because", recoverable: false });
    socket.break(code);
    await pass(20000);
    assert.equal(session.state, "failed");
    assert.equal(FakeSocket.made.length, 1);
    assert.equal(events.length, 1);
    assert.match(events[0][1].message, new RegExp(`${code}: because`));
    assert.ok(events[0][1].error instanceof StarlingError);
    assert.throws(() => session.send(count(0, 1)), { kind: "closed", code });
  });
}

test("what a late resume of one's own took is taken back, once", async () => {
  const { session, socket } = await live();
  socket.break();
  await pass(200);
  FakeSocket.made.at(-1).open();
  await turn();
  FakeSocket.made.at(-1).break();
  const next = await again();
  next.break(4103);
  const last = await again();
  assert.equal(session.state, "live");
  last.break(4103);
  await pass(20000);
  assert.equal(session.state, "failed");
});

test("waits grow up to a limit, begin anew after progress, and add to what the server asks", async () => {
  const { session, socket } = await live({ reconnectTimeoutMs: 3600e3 });
  const waits = [];
  session.addEventListener("state", ({ detail }) => detail.retryInMs !== undefined && waits.push(detail.retryInMs));
  session.send(count(0, 10));
  socket.break();
  for (let i = 0; i < 7; i++) {
    const before = FakeSocket.made.length;
    while (FakeSocket.made.length === before) await pass(50);
    FakeSocket.made.at(-1).break();
    await turn();
  }
  assert.deepEqual(waits, [125, 250, 500, 1000, 2000, 4000, 4000, 4000]);
  const next = await again();
  next.say({ type: "ack", audio_offset: 1 }, { type: "error", code: 1013, message: "busy", recoverable: false, retry_after_ms: 3000 });
  next.break(1013);
  assert.equal(waits.at(-1), 3125);
});

test("a session whose connection stays away for longer than the resume window is lost", async () => {
  const { session, socket } = await live({}, { resume_window_s: 5 });
  const events = log(session, "error");
  socket.break();
  for (let i = 0; i < 200 && session.state === "reconnecting"; i++) {
    await pass(100);
    if (FakeSocket.made.at(-1).closed === null) FakeSocket.made.at(-1).break();
    await turn();
  }
  assert.equal(session.state, "failed");
  assert.equal(events[0][1].error.kind, "lost");
  assert.ok(clock <= 6000);
});

test("a server that does not answer at the start is said at once", async () => {
  const session = make();
  await turn();
  FakeSocket.made[0].break();
  await assert.rejects(session.opened, { kind: "unreachable" });
});

for (const status of [401, 403, 404]) {
  test(`a refusal with ${status} is final`, async () => {
    const session = make({ fetch: refusal(status) });
    await turn();
    FakeSocket.made[0].break();
    await assert.rejects(session.opened, { kind: "refused", status });
  });
}

test("a full server is tried again after the time it asks for, and given up within the limit", async () => {
  const session = make({ fetch: refusal(503, { "Retry-After": "5" }), connectTimeoutMs: 12000 });
  await turn();
  for (let i = 0; i < 3; i++) {
    const before = FakeSocket.made.length;
    FakeSocket.made.at(-1).break();
    await turn();
    if (i === 2) break;
    await pass(4900);
    assert.equal(FakeSocket.made.length, before);
    await pass(600);
    assert.equal(FakeSocket.made.length, before + 1);
  }
  await assert.rejects(session.opened, { kind: "refused", status: 503 });
});

test("a connection on which answers are due and nothing comes is made again", async () => {
  const { session, socket } = await live({ deadAfterMs: 3000 });
  const finals = log(session, "final");
  await pass(60000);
  assert.equal(session.state, "live", "silence is fine while nothing is due");
  assert.deepEqual(socket.spoken.at(-1), { type: "keepalive" });
  session.send(count(0, 10));
  await pass(2500);
  socket.say({ type: "ack", audio_offset: 4 });
  await pass(2500);
  assert.equal(session.state, "live");
  await pass(1600);
  assert.equal(FakeSocket.made.length, 2);
  assert.notEqual(socket.closed, null);
  socket.say(final(0));
  assert.deepEqual(finals, [], "the old connection is not listened to any more");
});

test("an attempt that hangs is given up", async () => {
  const { session, socket } = await live({ attemptTimeoutMs: 2000 });
  socket.break();
  while (FakeSocket.made.length === 1) await pass(50);
  await pass(2400);
  assert.equal(FakeSocket.made.length, 3);
  assert.equal(session.state, "reconnecting");
});

test("audio is kept up to the limit and not beyond", async () => {
  const session = make({ maxUnacknowledgedS: 1 });
  session.send(new Int16Array(16000));
  assert.throws(() => session.send(new Int16Array(1)), { kind: "full" });
  assert.equal(session.writtenSeconds, 1);
  await turn();
  FakeSocket.made[0].open();
  FakeSocket.made[0].say(opened(), { type: "ack", audio_offset: 16000 });
  session.send(new Int16Array(16000));
});

test("a fast source waits while the network is behind", async () => {
  const { session, socket } = await live();
  socket.bufferedAmount = 1 << 20;
  session.send(new Int16Array(32768));
  let hasRoom = false;
  session.room(1).then(() => (hasRoom = true));
  await pass(500);
  assert.equal(hasRoom, false);
  socket.bufferedAmount = 0;
  await pass(50);
  assert.equal(hasRoom, true);
  session.close();
  await assert.rejects(session.room(1), { kind: "over" });
});

test("frames are bounded and nothing is lost between them", async () => {
  const { session, socket } = await live();
  const samples = Int16Array.from({ length: 100000 }, (_, i) => (i * 7919) % 30011);
  for (let at = 0; at < samples.length; at += 777) session.send(samples.subarray(at, at + 777));
  socket.say({ type: "ack", audio_offset: 50000 });
  session.send(samples.subarray(0, 20000));
  await pass(100);
  assert.deepEqual(socket.spoken, [...samples, ...samples.subarray(0, 20000)]);
  assert.ok(socket.sent.slice(1).every((frame) => frame.length <= 8192));
  const next = await reconnect({ audio_offset: 50000 });
  assert.deepEqual(next.spoken, [...samples.subarray(50000), ...samples.subarray(0, 20000)]);
});

test("a session that goes on is named in the address, so that a full server takes it", async () => {
  const { socket } = await live();
  assert.equal(socket.url, "ws://server/stream");
  assert.equal((await reconnect()).url, "ws://server/stream?resume=s1");
});

test("a ticket is fetched for each connection and goes into the subprotocol, not the address", async () => {
  let number = 0;
  const { socket } = await live({ ticket: async () => `t${++number}` });
  assert.deepEqual(socket.protocols, ["starling.v1", "starling.ticket.t1"]);
  const next = await reconnect();
  assert.deepEqual(next.protocols, ["starling.v1", "starling.ticket.t2"]);
  assert.doesNotMatch(next.url, /t2/);
});

test("a ticket that is refused ends the session, one that cannot be had is asked for again", async () => {
  const refused = make({ ticket: () => Promise.reject(new StarlingError("refused", "no", { status: 401 })) });
  await turn();
  await assert.rejects(refused.opened, { kind: "refused", status: 401 });
  let asked = 0;
  const waiting = make({ ticket: async () => (++asked < 3 ? Promise.reject(new Error("busy")) : "t") });
  await pass(2000);
  assert.equal(asked, 3);
  assert.equal(FakeSocket.made.length, 1);
  waiting.close();
});

test("close gives up at once", async () => {
  const { session, socket } = await live();
  const answer = session.finalize();
  session.close();
  session.close();
  assert.equal(socket.closed, 1000);
  assert.equal(session.state, "closed");
  await assert.rejects(answer, { kind: "over" });
  await pass(60000);
  assert.equal(FakeSocket.made.length, 1);
});

test("what a server must not send ends the session in words", async () => {
  const wrong = [
    [{ type: "final", seq: 0 }], [opened({ resumed: true })], [opened({ sample_rate: 8000 })], [opened(), opened()],
    [opened(), { type: "ack", audio_offset: 1 }], [opened(), { type: "done", segments: 0 }], ["hello"],
  ];
  for (const messages of wrong) {
    FakeSocket.made = [];
    const session = make();
    await turn();
    FakeSocket.made[0].open();
    FakeSocket.made[0].say(...messages);
    assert.equal(session.state, "failed", JSON.stringify(messages));
    await assert.rejects(session.end(), { kind: "protocol" });
  }
});

test("messages of a later version are passed over", async () => {
  const { session, socket } = await live();
  socket.say({ type: "weather", sun: true }, final(0));
  assert.equal(session.state, "live");
});

test("settings that the server would refuse are refused here", () => {
  assert.throws(() => make({ sampleRate: 7999 }), RangeError);
  assert.throws(() => make({ sampleRate: 44100.5 }), RangeError);
  assert.throws(() => make({ endpointSilenceMs: 100 }), RangeError);
  assert.throws(() => new StarlingSession("ftp://server/stream"), TypeError);
});

test("stable text is counted in characters, not in units of UTF-16", () => {
  assert.deepEqual(splitStable({ text: "a😀b c", stable: 3 }), ["a😀b", " c"]);
});

test("any session over any network gives each sample once, in order", async () => {
  mock.timers.reset();
  mock.timers.enable({ apis: ["setTimeout", "setInterval"] });
  for (let seed = 1; seed <= 60; seed++) await randomSession(seed);
});

/** A server that behaves, a network that does not: what the server takes in must be exactly what was said. */
async function randomSession(seed) {
  let state = seed * 2654435761;
  const random = (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
  FakeSocket.made = [];
  clock = 0;
  const session = make({ reconnectTimeoutMs: 1e9 });
  await turn();
  const taken = [];
  let acknowledged = 0, said = 0, skip = 0, seen = 0, resumed = false, socket = null;
  const connect = async () => {
    while (socket === FakeSocket.made.at(-1)) await pass(50);
    socket = FakeSocket.made.at(-1);
    socket.open();
    seen = 1;
    if (resumed) {
      if (random(2)) taken.length = Math.max(acknowledged, taken.length - random(300)); // another server, from its store
      assert.ok(socket.sent[0].from_offset <= taken.length, `seed ${seed}: a gap`);
      skip = taken.length - socket.sent[0].from_offset;
    }
    socket.say(opened({ resumed, audio_offset: taken.length }));
    resumed = true;
  };
  const take = () => {
    for (const frame of socket.sent.slice(seen)) {
      if (!(frame instanceof Int16Array)) continue;
      for (const sample of frame) skip > 0 ? skip-- : taken.push(sample);
    }
    seen = socket.sent.length;
  };
  await connect();
  for (let step = 0; step < 80; step++) {
    switch (random(5)) {
      case 0:
      case 1: {
        const length = random(400);
        session.send(count(said, said + length));
        said += length;
        break;
      }
      case 2:
        take();
        break;
      case 3:
        acknowledged += random(taken.length - acknowledged + 1);
        socket.say({ type: "ack", audio_offset: acknowledged });
        break;
      case 4:
        if (random(2)) take();
        socket.break([1006, 1001, 1011][random(3)]);
        await connect();
    }
  }
  take();
  assert.deepEqual(taken, Array.from(count(0, said)), `seed ${seed}`);
  session.close();
}
