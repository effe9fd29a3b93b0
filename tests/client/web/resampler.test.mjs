import assert from "node:assert/strict";
import { test } from "node:test";

import { Resampler } from "../../../client/web/resampler.js";

const tone = (rate, frequency, seconds = 1) =>
  Float32Array.from({ length: rate * seconds }, (_, i) => Math.sin((2 * Math.PI * frequency * i) / rate));
const rms = (samples) => Math.sqrt(samples.reduce((sum, sample) => sum + sample * sample, 0) / samples.length);

function run(from, input, sizes = [128]) {
  const resampler = new Resampler(from, 16000);
  const output = [];
  for (let at = 0, i = 0; at < input.length; at += sizes[i++ % sizes.length]) {
    output.push(...resampler.process(input.subarray(at, at + sizes[i % sizes.length])));
  }
  return output;
}

for (const rate of [8000, 22050, 44100, 48000, 96000]) {
  test(`${rate} Hz: as many samples as seconds, speech passes, what would be an alias does not`, () => {
    const output = run(rate, tone(rate, 1000));
    assert.ok(Math.abs(output.length - 16000) <= 64, `${output.length}`);
    assert.ok(Math.abs(rms(output.slice(200, -200)) - Math.SQRT1_2) < 0.002);
    if (rate > 20000) assert.ok(rms(run(rate, tone(rate, 9500)).slice(200, -200)) < 10 ** (-60 / 20));
  });

  test(`${rate} Hz: the pieces in which the stream comes make no difference`, () => {
    const input = tone(rate, 440, 0.2);
    const whole = run(rate, input, [input.length]);
    const pieces = run(rate, input, [128]);
    assert.deepEqual(pieces, whole.slice(0, pieces.length));
    assert.ok(whole.length - pieces.length <= 1);
  });
}

test("a constant stays what it is", () => {
  const output = run(44100, new Float32Array(44100).fill(0.5)).slice(200);
  assert.ok(output.every((sample) => Math.abs(sample - 0.5) < 1e-5));
});
