"""The session core over recordings in virtual time: what a policy costs and how it reads, without waiting for it.

Audio arrives in 20 ms frames of a clock that only this program moves. Voice activity and decodes really run; a decode
takes as long on that clock as it took the processor, and work is ranked by the gateway's own scheduler. So the same
policy gives nearly the same figures on a busy machine, faster than real time:

    python -m perf.simulate MANIFEST [--set hop_windows=12 ...] [--language en]      each recording by itself
    python -m perf.simulate MANIFEST --streams 8 --instances 2 [--in-flight 4]       a server with eight speakers

A window that was decoded once, with the same draft, is not decoded again: its time is remembered.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import numpy as np

import starling_client
from engines.base import Engine
from launcher.paths import Paths
from perf.accuracy import Clip
from perf.clocks import Flicker, read_flicker
from perf.track import Track, load_clips, make_tracks, read_samples
from perf.virtual_triton import Decoder, ServerShape, VirtualTime, VirtualTriton
from perf.wer import total, word_errors
from server.audio.vad import VadState, VoiceDetector
from server.config import load
from server.session.commands import (
    Cancel,
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
from server.session.messages import Message, Partial, SpeechStarted
from server.session.segment import Hypothesis
from server.session.session import Session
from server.session.settings import Policy, SessionSettings
from session_store.base import Final, SessionState
from starling_cli.audio_files import AudioFile

FRAME_S = 0.02
VAD_DELAY_S = 0.016
"""Voice activity gathers this long; half of it on average, and then it computes."""
STORE_DELAY_S = 0.003
TRAILING_SILENCE_S = 1.0


@dataclass(slots=True)
class Run:
    """What one stream gave."""

    track: Track
    finals: list[Final] = field(default_factory=list)
    partials: list[Partial] = field(default_factory=list)
    partial_lags: list[float] = field(default_factory=list)
    final_lags: list[float] = field(default_factory=list)
    first_waits: list[float] = field(default_factory=list)
    """From the first speech of a segment to its first partial."""
    shown_lags: list[float] = field(default_factory=list)
    """From the end of what a shown partial covered to the next one that is shown: what a reader waits for news."""
    vad_s: float = 0.0

    @property
    def text(self) -> str:
        """The whole transcript."""
        return " ".join(final.text for final in self.finals)


class Stream:
    """One speaker and its session."""

    def __init__(
        self, track: Track, policy: Policy, triton: VirtualTriton, detector: VoiceDetector, clock: VirtualTime
    ) -> None:
        self.run = Run(track)
        settings = SessionSettings(language=track.language, sample_rate=track.rate)
        self._session = Session(SessionState("simulated", b""), settings, policy)
        self._triton, self._detector, self._clock = triton, detector, clock
        self._begin = 0.0
        self._speech_at = 0.0

    def speak(self, begin: float) -> None:
        """Says the track and the silence behind it, from a time on."""
        rate, clock = self.run.track.rate, self._clock
        self._begin = begin
        step = int(rate * FRAME_S)
        silence = np.zeros(int(TRAILING_SILENCE_S * rate), np.int16)
        audio = np.concatenate([self.run.track.samples, silence])
        for number, start in enumerate(range(0, len(audio), step)):
            data = audio[start : start + step].tobytes()
            when = begin + (number + 1) * FRAME_S
            clock.at(when, lambda data=data: self._do(self._session.audio(data, clock.now)))  # type: ignore[misc]
        clock.at(begin + len(audio) / rate + FRAME_S, lambda: self._do(self._session.end(clock.now)))

    @property
    def language(self) -> str:
        """See `PartialSource`."""
        return self._session.language

    def take_partial(self) -> Decode | None:
        """See `PartialSource`."""
        return self._session.take_partial(self._clock.now)

    def on_hypothesis(self, job: int, hypothesis: Hypothesis) -> None:
        """See `PartialSource`."""
        self._do(self._session.hypothesis(job, hypothesis, self._clock.now))

    def on_decode_failed(self, job: int, reason: str) -> None:
        """See `PartialSource`."""
        self._do(self._session.decode_failed(job, reason, self._clock.now))

    def _do(self, commands: list[Command]) -> None:
        clock, session, triton = self._clock, self._session, self._triton
        for command in commands:
            match command:
                case Send():
                    self._send(command.message, command.since)
                case DetectVoice():
                    self._detect(command)
                case Decode():
                    triton.decode(self, command)
                case WantPartial():
                    triton.want_partial(self, command.since)
                case DropPartial():
                    triton.drop_partial(self)
                case Cancel():
                    triton.cancel(self, command.job)
                case Punctuate():
                    self._do(session.punctuated(command.job, command.text, clock.now))
                case Store():
                    done = lambda t=command.ticket: self._do(session.stored(t, clock.now))  # noqa: E731
                    clock.at(clock.now + STORE_DELAY_S, done)
                case Finish():
                    pass

    def _send(self, message: Message, since: float | None) -> None:
        if isinstance(message, SpeechStarted):
            self._speech_at = message.at
        elif isinstance(message, Partial):
            self._time(message)
            self.run.partials.append(message)
            if since is not None:
                self.run.partial_lags.append(self._clock.now - since)
        elif isinstance(message, Final):
            self.run.finals.append(message)
            if since is not None:
                self.run.final_lags.append(self._clock.now - since)

    def _time(self, partial: Partial) -> None:
        now, before = self._clock.now - self._begin, self.run.partials[-1] if self.run.partials else None
        if before is None or before.seq != partial.seq:
            self.run.first_waits.append(now - self._speech_at)
        else:
            self.run.shown_lags.append(now - before.end)

    def _detect(self, command: DetectVoice) -> None:
        state = command.state if isinstance(command.state, VadState) else VadState.initial()
        started = time.thread_time()
        [(probabilities, after)] = self._detector.detect([(state, command.samples)])
        self.run.vad_s += time.thread_time() - started
        answer = lambda: self._do(  # noqa: E731
            self._session.voice(command.epoch, probabilities.tolist(), after, self._clock.now)
        )
        self._clock.at(self._clock.now + VAD_DELAY_S, answer)


def simulate(
    tracks: Sequence[Track], policy: Policy, decoder: Decoder, shape: ServerShape, detector: VoiceDetector
) -> tuple[list[Run], VirtualTriton]:
    """All tracks at once, their phases spread over a frame; what each gave, and the server after its work."""
    clock = VirtualTime()
    triton = VirtualTriton(decoder, shape, clock)
    streams = [Stream(track, policy, triton, detector, clock) for track in tracks]
    for number, stream in enumerate(streams):
        stream.speak(number / len(streams) * FRAME_S)
    clock.run()
    return [stream.run for stream in streams], triton


def whole_recordings(clips: Sequence[Clip]) -> Iterator[Track]:
    """Each recording as a track, at its own rate."""
    for clip in clips:
        file = AudioFile(clip.path)
        file.close()
        yield Track(read_samples(clip.path, file.rate), file.rate, clip.language, clip.transcript, ())


def flicker(run: Run) -> Flicker:
    """What `perf.clocks` counts as a client sees it."""
    partials = (starling_client.Partial(p.text, p.seq, p.start, p.end, p.stable, p.language) for p in run.partials)
    finals = (
        starling_client.Final(f.text, f.seq, f.start, f.end, f.confidence, f.punctuated, f.language) for f in run.finals
    )
    return read_flicker([*partials, *finals])


def percentile(values: list[float], share: float) -> float:
    """Of at least one value; nan of none."""
    return float(np.quantile(values, share)) if values else float("nan")


def report(runs: list[Run], tritons: list[VirtualTriton]) -> str:
    """What matters, in a line."""
    errors = total(word_errors(run.track.transcript, run.text, run.track.language) for run in runs)
    seconds = sum(run.track.seconds for run in runs)
    shaken = Flicker()
    for run in runs:
        shaken.extend(flicker(run))
    lags, ends, firsts, shown = (
        [lag for run in runs for lag in getattr(run, name)]
        for name in ("partial_lags", "final_lags", "first_waits", "shown_lags")
    )
    decode = sum(triton.decode_s for triton in tritons) / seconds
    vad = sum(run.vad_s for run in runs) / seconds
    batches = [size for triton in tritons for size in triton.batches]
    windows = sum(batches)
    window_s = sum(triton.window_s for triton in tritons) / max(1, windows)
    return (
        f"WER {errors.rate:6.2%}  core/stream {decode:.3f} + VAD {vad:.3f}  windows/s {windows / seconds:.2f} "
        f"of {window_s:.1f} s  batch {np.mean(batches or [0]):.1f}  "
        f"partial lag p50 {percentile(lags, 0.5):.3f} p95 {percentile(lags, 0.95):.3f}  "
        f"final p50 {percentile(ends, 0.5):.3f} p95 {percentile(ends, 0.95):.3f}  flicker {shaken.rate:.3f}  "
        f"first shown p50 {percentile(firsts, 0.5):.2f} p95 {percentile(firsts, 0.95):.2f}  "
        f"news p50 {percentile(shown, 0.5):.2f} p95 {percentile(shown, 0.95):.2f}"
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
    served = load().policies.get(language, load().policy)
    return replace(served, **{name: kinds[name](value) for name, value in changes.items()})


def main() -> None:
    """Prints the report of each policy given, the default one if none."""
    options = _parser().parse_args()
    detector = VoiceDetector(Paths.from_environment().models / "silero-vad" / "silero_vad.onnx")
    decoder = Decoder(make_engine(options.language))
    together: list[list[Track]]
    clips = load_clips(options.manifest, [options.language])
    if options.streams:
        together = [make_tracks(clips, options.streams, options.seconds, continuous=options.continuous)]
        shape = ServerShape(options.instances, options.hands, options.in_flight)
    else:
        together = [[track] for track in whole_recordings(clips)]
        shape = ServerShape()
    for assignments in options.policies or [[]]:
        policy = policy_from(assignments, options.language)
        runs: list[Run] = []
        tritons: list[VirtualTriton] = []
        for tracks in together:
            some, triton = simulate(tracks, policy, decoder, shape, detector)
            runs += some
            tritons.append(triton)
        print(" ".join(assignments) or "default", "\n   ", report(runs, tritons), flush=True)
        if options.show:
            for run in runs:
                print("    " + " | ".join(final.text for final in run.finals))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--language", default="en")
    parser.add_argument("--set", nargs="*", action="append", default=[], metavar="NAME=VALUE", dest="policies")
    parser.add_argument("--show", action="store_true", help="print every transcript")
    parser.add_argument("--streams", type=int, default=0, help="so many at once, made of the recordings")
    parser.add_argument("--seconds", type=float, default=45.0, help="length of each of them (default: 45)")
    parser.add_argument("--continuous", action="store_true", help="without pauses between recordings")
    parser.add_argument("--instances", type=int, default=1, help="batches at once (default: 1)")
    parser.add_argument("--hands", type=int, default=2, help="threads a batch is dealt out to (default: 2)")
    parser.add_argument("--in-flight", type=int, default=4, help="windows sent at once (default: 4)")
    return parser


if __name__ == "__main__":
    main()
