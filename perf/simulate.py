"""The session core over recordings in virtual time: what a policy costs and how it reads, without waiting for it.

Audio arrives in 20 ms frames of a clock that only this program moves. Voice activity and decodes really run; a decode
takes as long on that clock as it took the processor, on a server that does one at a time. So the same policy gives
nearly the same figures on a busy machine, many times faster than real time:

    python -m perf.simulate MANIFEST [--set hop_windows=12 ...] [--language en]
"""

from __future__ import annotations

import argparse
import csv
import heapq
import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from engines.base import Engine, EngineError, Window
from launcher.paths import Paths
from perf.wer import total, word_errors
from server.audio.vad import VadState, VoiceDetector
from server.config import load
from server.session.commands import Cancel as CancelCommand
from server.session.commands import (
    Command,
    Decode,
    DetectVoice,
    DropPartial,
    Finish,
    Punctuate,
    Send,
    Store,
    WantPartial,
)
from server.session.messages import Message, Partial
from server.session.segment import Hypothesis
from server.session.session import Session
from server.session.settings import Policy, SessionSettings
from session_store.base import Final, SessionState

FRAME_S = 0.02
VAD_DELAY_S = 0.003
STORE_DELAY_S = 0.003
TRAILING_SILENCE_S = 1.0


@dataclass(frozen=True, slots=True)
class Clip:
    """A recording and what is said in it."""

    path: Path
    samples: NDArray[np.int16]
    rate: int
    language: str
    transcript: str


@dataclass(slots=True)
class Run:
    """What one recording gave."""

    clip: Clip
    finals: list[Final] = field(default_factory=list)
    partials: list[Partial] = field(default_factory=list)
    partial_lags: list[float] = field(default_factory=list)
    final_lags: list[float] = field(default_factory=list)
    decode_s: float = 0.0
    vad_s: float = 0.0
    windows: int = 0
    window_s: float = 0.0

    @property
    def text(self) -> str:
        """The whole transcript."""
        return " ".join(final.text for final in self.finals)

    @property
    def seconds(self) -> float:
        """Length of the recording."""
        return len(self.clip.samples) / self.clip.rate


class Simulation:
    """One recording through one session."""

    def __init__(self, clip: Clip, policy: Policy, engine: Engine, detector: VoiceDetector) -> None:
        self.run = Run(clip)
        settings = SessionSettings(language=clip.language, sample_rate=clip.rate)
        self._session = Session(SessionState("simulated", b""), settings, policy)
        self._engine = engine
        self._detector = detector
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._now = 0.0
        self._finals: list[Decode] = []
        self._wants = False
        self._free_at = 0.0
        self._cancelled: set[int] = set()

    def go(self) -> Run:
        """Plays the recording and the silence behind it to the end."""
        rate = self.run.clip.rate
        step = int(rate * FRAME_S)
        silence = np.zeros(int(TRAILING_SILENCE_S * rate), np.int16)
        audio = np.concatenate([self.run.clip.samples, silence])
        for number, start in enumerate(range(0, len(audio), step)):
            data = audio[start : start + step].tobytes()
            self._at((number + 1) * FRAME_S, lambda data=data: self._do(self._session.audio(data, self._now)))  # type: ignore[misc]
        end = len(audio) / rate + FRAME_S
        self._at(end, lambda: self._do(self._session.end(self._now)))
        while self._events:
            self._now, _, action = heapq.heappop(self._events)
            action()
        return self.run

    def _at(self, when: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._order), action))

    def _do(self, commands: list[Command]) -> None:
        for command in commands:
            match command:
                case Send():
                    self._send(command.message, command.since)
                case DetectVoice():
                    self._detect(command)
                case Decode():
                    self._finals.append(command)
                    self._dispatch()
                case WantPartial():
                    self._wants = True
                    self._dispatch()
                case DropPartial():
                    self._wants = False
                case CancelCommand():
                    self._cancelled.add(command.job)
                case Punctuate():
                    self._do(self._session.punctuated(command.job, command.text, self._now))
                case Store():
                    ticket = command.ticket
                    self._at(
                        self._now + STORE_DELAY_S,
                        lambda t=ticket: self._do(self._session.stored(t, self._now)),  # type: ignore[misc]
                    )
                case Finish():
                    pass

    def _send(self, message: Message, since: float | None) -> None:
        if isinstance(message, Partial):
            self.run.partials.append(message)
            if since is not None:
                self.run.partial_lags.append(self._now - since)
        elif isinstance(message, Final):
            self.run.finals.append(message)
            if since is not None:
                self.run.final_lags.append(self._now - since)

    def _detect(self, command: DetectVoice) -> None:
        state = command.state if isinstance(command.state, VadState) else VadState.initial()
        started = time.thread_time()
        [(probabilities, after)] = self._detector.detect([(state, command.samples)])
        self.run.vad_s += time.thread_time() - started
        self._at(
            self._now + VAD_DELAY_S,
            lambda: self._do(self._session.voice(command.epoch, probabilities.tolist(), after, self._now)),
        )

    def _dispatch(self) -> None:
        if self._now < self._free_at:
            return
        if self._finals:
            self._decode(self._finals.pop(0))
        elif self._wants:
            self._wants = False
            decode = self._session.take_partial(self._now)
            if decode is not None:
                self._decode(decode)

    def _decode(self, command: Decode) -> None:
        if command.job in self._cancelled:
            self._dispatch()
            return
        started = time.process_time()
        [answer] = self._engine.transcribe([Window(command.audio, command.language, command.draft, command.is_partial)])
        took = time.process_time() - started
        self.run.decode_s += took
        self.run.windows += 1
        self.run.window_s += len(command.audio) / 16000
        self._free_at = self._now + took
        self._at(self._free_at, lambda: self._answered(command.job, answer))

    def _answered(self, job: int, answer: object) -> None:
        if isinstance(answer, EngineError):
            self._do(self._session.decode_failed(job, str(answer), self._now))
        else:
            found = Hypothesis(answer.text, answer.tokens, answer.confidence, answer.language, answer.words)  # type: ignore[attr-defined]
            self._do(self._session.hypothesis(job, found, self._now))
        self._dispatch()


def read_manifest(path: Path, language: str | None = None) -> Iterator[Clip]:
    """The recordings of a tab-separated manifest with the columns file, language and transcript."""
    with path.open(newline="") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            if language in (None, row["language"]):
                samples, rate = soundfile.read(path.parent / row["file"], dtype="int16", always_2d=True)
                mono = samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1).astype(np.int16)
                yield Clip(path.parent / row["file"], mono, rate, row["language"], row["transcript"])


def flicker(run: Run) -> tuple[int, int]:
    """Words that a partial changed or took back of the one before it, and words of the finals."""
    changed = 0
    before: Partial | None = None
    for partial in run.partials:
        if before is not None and before.seq == partial.seq:
            old, new = before.text.split(), partial.text.split()
            same = next((i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))
            changed += len(old) - same
        before = partial
    return changed, sum(len(final.text.split()) for final in run.finals)


def percentile(values: list[float], share: float) -> float:
    """Of at least one value; nan of none."""
    return float(np.quantile(values, share)) if values else float("nan")


def report(runs: list[Run]) -> str:
    """One line with what matters."""
    errors = total(word_errors(run.clip.transcript, run.text, run.clip.language) for run in runs)
    seconds = sum(run.seconds for run in runs)
    changed, spoken = (sum(values) for values in zip(*map(flicker, runs), strict=True))
    lags = [lag for run in runs for lag in run.partial_lags]
    ends = [lag for run in runs for lag in run.final_lags]
    decode, vad = sum(run.decode_s for run in runs) / seconds, sum(run.vad_s for run in runs) / seconds
    windows = sum(run.windows for run in runs)
    return (
        f"WER {errors.rate:6.2%}  core {decode:.3f} + VAD {vad:.3f}  windows/s {windows / seconds:.2f} "
        f"of {sum(run.window_s for run in runs) / max(1, windows):.1f} s  "
        f"partial lag p50 {percentile(lags, 0.5):.3f} p95 {percentile(lags, 0.95):.3f}  "
        f"final p50 {percentile(ends, 0.5):.3f} p95 {percentile(ends, 0.95):.3f}  flicker {changed / spoken:.3f}"
    )


def make_engine(language: str) -> Engine:
    """The engine for a language, on one thread."""
    models = Paths.from_environment().models
    if language == "en":
        from engines.moonshine.engine import MoonshineEngine

        return MoonshineEngine(models / "moonshine-tiny-en", threads=1)
    from engines.whisper.engine import WhisperEngine

    return WhisperEngine(models / "whisper-base", threads=1)


def policy_from(assignments: list[str], language: str) -> Policy:
    """The default policy for a language, with ``name=value`` changes."""
    kinds = {f.name: type(getattr(Policy(), f.name)) for f in fields(Policy)}
    changes = dict(assignment.split("=", 1) for assignment in assignments)
    served = load().policies.get(language, Policy())
    return replace(served, **{name: kinds[name](value) for name, value in changes.items()})


def main() -> None:
    """Prints the report of each policy given, the default one if none."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--language", default="en")
    parser.add_argument("--set", nargs="*", action="append", default=[], metavar="NAME=VALUE", dest="policies")
    parser.add_argument("--show", action="store_true", help="print every transcript")
    options = parser.parse_args()
    clips = list(read_manifest(options.manifest, options.language))
    detector = VoiceDetector(Paths.from_environment().models / "silero-vad" / "silero_vad.onnx")
    engine = make_engine(options.language)
    for assignments in options.policies or [[]]:
        runs = [Simulation(clip, policy_from(assignments, options.language), engine, detector).go() for clip in clips]
        print(" ".join(assignments) or "default", "\n   ", report(runs), flush=True)
        if options.show:
            for run in runs:
                print(f"    {run.clip.path.name}: " + " | ".join(final.text for final in run.finals))


if __name__ == "__main__":
    main()
