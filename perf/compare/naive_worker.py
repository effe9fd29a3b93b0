"""The loop that everybody writes first: an energy threshold as endpoint, the whole growing segment decoded each hop.

PCM in on stdin, events as JSON lines out on stdout. The same engine and graphs as Starling's, on one thread, plain
greedy decoding without drafts; no voice activity model, no stable prefix, no early final.

    python -m perf.compare.naive_worker HOP_S
"""

from __future__ import annotations

import json
import os
import sys

import numpy as np
from numpy.typing import NDArray

from engines.base import EngineError, Window
from engines.moonshine.engine import MoonshineEngine
from launcher.paths import Paths

RATE = 16000
READ_BYTES = 1 << 16
BLOCK = 512
LEVEL = 300.0
"""Root mean square from which a block counts as speech."""
SILENCE_S = 0.5
LONGEST_S = 20.0


class NaiveRecognizer:
    """One stream."""

    def __init__(self, hop_s: float) -> None:
        self._engine = MoonshineEngine(Paths.from_environment().models / "moonshine-tiny-en")
        self._hop = int(hop_s * RATE)
        self._segment: list[NDArray[np.int16]] = []
        self._start = 0
        self._heard = 0
        self._quiet = 0
        self._decoded = 0
        self._seq = 0
        self._shown = ""

    def warm_up(self) -> None:
        """The first decode pays for what the others find in place."""
        self._engine.transcribe([Window(np.zeros(RATE, np.int16) + 1, "en")])

    def add(self, block: NDArray[np.int16]) -> None:
        """Takes the next block."""
        loud = float(np.sqrt(np.mean(block.astype(np.float64) ** 2))) > LEVEL
        if not self._segment and loud:
            self._start, self._decoded, self._shown = self._heard, self._heard, ""
        self._heard += len(block)
        if not self._segment and not loud:
            return
        self._segment.append(block)
        self._quiet = 0 if loud else self._quiet + len(block)
        if self._quiet >= SILENCE_S * RATE or self._heard - self._start >= LONGEST_S * RATE:
            self.finish()

    def decode(self) -> None:
        """A partial, if a hop of audio has come since the last one."""
        if self._segment and self._heard - self._decoded >= self._hop:
            text, self._decoded = self._text(), self._heard
            if text and text != self._shown:
                self._shown = text
                self._tell("partial", text, self._heard)

    def finish(self) -> None:
        """The segment's final, if there is a segment."""
        if self._segment:
            text = self._text()
            if text:
                self._tell("final", text, self._heard - self._quiet)
                self._seq += 1
            self._segment, self._quiet = [], 0

    def _text(self) -> str:
        [answer] = self._engine.transcribe([Window(np.concatenate(self._segment), "en")])
        return "" if isinstance(answer, EngineError) else answer.text

    def _tell(self, kind: str, text: str, end: int) -> None:
        told = {"type": kind, "text": text, "seq": self._seq, "start": self._start / RATE, "end": end / RATE}
        print(json.dumps(told), flush=True)


def main() -> None:
    """Reads until the pipe ends."""
    recognizer = NaiveRecognizer(float(sys.argv[1]))
    recognizer.warm_up()
    print(json.dumps({"type": "ready"}), flush=True)
    rest = b""
    while data := os.read(0, READ_BYTES):
        rest += data
        while len(rest) >= 2 * BLOCK:
            recognizer.add(np.frombuffer(rest[: 2 * BLOCK], np.int16))
            rest = rest[2 * BLOCK :]
        recognizer.decode()
    recognizer.finish()


if __name__ == "__main__":
    main()
