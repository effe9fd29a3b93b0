import assert from "node:assert/strict";
import { test } from "node:test";

import { clock, toSrt, toText, toVtt } from "../../../client/web/subtitles.js";

const LINES = [
  { text: "Short.", start: 0.96, end: 3.712 },
  { text: "a <b> & --> c", start: 3661.0004, end: 3662.5 },
];

test("text has a line for each segment", () => {
  assert.equal(toText(LINES), "Short.\na <b> & --> c\n");
  assert.equal(toText([]), "");
});

test("SRT and WebVTT as their formats want them", () => {
  assert.equal(
    toSrt(LINES),
    "1\n00:00:00,960 --> 00:00:03,712\nShort.\n\n2\n01:01:01,000 --> 01:01:02,500\na <b> & → c\n",
  );
  assert.equal(
    toVtt(LINES),
    "WEBVTT\n\n00:00:00.960 --> 00:00:03.712\nShort.\n\n01:01:01.000 --> 01:01:02.500\na &lt;b&gt; &amp; --&gt; c\n",
  );
});

test("times round and never run over", () => {
  assert.equal(clock(59.9996, "."), "00:01:00.000");
  assert.equal(clock(-1, ","), "00:00:00,000");
});

test("long segments become cues of two rows that share out the time and lose no word", () => {
  const text = Array.from({ length: 60 }, (_, i) => `word${i}`).join(" ");
  const blocks = toSrt([{ text, start: 10, end: 30 }]).split("\n\n").map((block) => block.trimEnd().split("\n"));
  const rows = blocks.flatMap((block) => block.slice(2));
  assert.equal(rows.join(" "), text);
  assert.ok(blocks.length >= 5);
  assert.ok(blocks.every((block) => block.length <= 4), JSON.stringify(blocks));
  assert.ok(rows.every((row) => row.length <= 50));
  const times = blocks.map((block) => block[1].split(" --> "));
  assert.equal(times[0][0], "00:00:10,000");
  assert.equal(times.at(-1)[1], "00:00:30,000");
  for (let i = 1; i < times.length; i++) assert.equal(times[i][0], times[i - 1][1]);
});
