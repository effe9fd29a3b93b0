"""Scores the marks of a recording that is streamed live, at the speed of speech, through a real server.

    python -m training.punctuation.live [--manifest TSV] [--clip NAME ...] [--model FOLDER] [--rounds N]

A Triton and a gateway are started for each policy, `asr` (the ASR model's own marks) and `both` (as served); the
recording goes in frames of 20 ms, and the server cuts it at its pauses. Marks and casing of the finals are counted
against the transcript as `training.punctuation.evaluate` does. ``--url`` scores a server that runs already instead.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import starling_client
from engines.punctuation import Policy
from engines.punctuation.text import MARKS
from launcher.errors import LauncherError
from launcher.paths import Paths
from launcher.progress import Reporter
from launcher.repository import default_plans
from launcher.setup import set_up
from perf.accuracy import Clip
from perf.stack import GatewayProcess, triton_options
from perf.track import DEFAULT_MANIFEST, load_clips
from starling_cli.audio_files import AudioFile
from starling_cli.pacing import in_real_time
from starling_client import Final
from training.punctuation import recordings
from training.punctuation.scores import Scores, table

FRAME_S = 0.02

SILENCE_S = 1.5
"""Sent after the recording, so that the server hears its end."""

_POLICIES = re.compile(r'("POLICIES"\s+value:\s*\{\s*string_value:\s*)"[^"]*"')


@contextmanager
def running_server(policy: str, model: Path | None, reporter: Reporter) -> Iterator[str]:
    """A Triton and a gateway of their own whose English finals follow a policy; the address of its `/stream`.

    ``model`` is a folder with other punctuation weights. Raises LauncherError where something does not start.
    """
    with tempfile.TemporaryDirectory(prefix="starling-live-") as name, ExitStack() as stack:
        folder = Path(name)
        paths = replace(Paths.from_environment(), state=folder / "triton")
        plans = default_plans(paths, model_dirs={"punctuation": model.resolve()} if model else None)
        plans = [plan for plan in plans if plan.name in ("asr", "punctuation")]
        triton = set_up(paths, reporter).triton_process(triton_options(stack), plans)
        config = triton.repository / "punctuation" / "config.pbtxt"
        config.write_text(with_policies(config.read_text(), f"en={policy}"))
        stack.callback(triton.stop)
        triton.start_ready()
        gateway = GatewayProcess(folder / "gateway", [triton.options.grpc_url], {"models": {"asr": ["en"]}})
        stack.callback(gateway.stop)
        gateway.start()
        yield gateway.url


def with_policies(config: str, policies: str) -> str:
    """A ``config.pbtxt`` with its parameter POLICIES set; raises ValueError where it has none."""
    changed, count = _POLICIES.subn(lambda found: f'{found.group(1)}"{policies}"', config)
    if count != 1:
        raise ValueError(f"config.pbtxt has {count} parameters POLICIES, not one")
    return changed


async def stream(clip: Clip, url: str, api_key: str | None = None) -> list[Final]:
    """Sends a recording when a microphone would have it, and returns its finals."""
    file = AudioFile(clip.path)
    frames = list(file.pieces(FRAME_S))
    file.close()
    session = starling_client.connect(url, language=clip.language, sample_rate=file.rate, api_key=api_key)
    async with session:
        return [event async for event in session.stream(_paced(frames, file.rate)) if isinstance(event, Final)]


async def _paced(frames: Sequence[NDArray[np.int16]], rate: int) -> AsyncIterator[bytes]:
    silence = np.zeros(round(rate * FRAME_S), np.int16)
    async for frame in in_real_time([*frames, *[silence] * round(SILENCE_S / FRAME_S)], FRAME_S):
        yield frame.tobytes()


def report(clip: Clip, runs: Sequence[tuple[str, list[Final]]]) -> None:
    """Prints each run's finals with their times, and a table of its marks and casing."""
    rows = []
    for name, finals in runs:
        print(f"\n{clip.path.name}, {name}\n")
        for final in finals:
            print(f"{final.start:6.2f} to {final.end:5.2f}  {final.text}{'' if final.punctuated else '  (no marks)'}")
        scores = Scores()
        recordings.score(scores, clip.transcript, " ".join(final.text for final in finals))
        rows.append((name, scores))
    print(f"\n{table(rows)}\n")
    for name, scores in rows:
        right, set_, true = (
            sum(c[mark] for mark in range(1, len(MARKS))) for c in (scores.right, scores.set_, scores.true)
        )
        print(f"{name}: {right} marks right of {set_} set, {true} in the transcript")
    sys.stdout.flush()


def main(argv: Sequence[str] | None = None) -> int:
    """Runs from the command line; 1 where something could not be started."""
    options = _parser().parse_args(argv)
    runs: dict[Path, list[tuple[str, list[Final]]]] = {}
    try:
        clips = load_clips(options.manifest, ["en"], options.clip or ["two_cities"])
        for policy in ["server"] if options.url else options.policy or [Policy.ASR, Policy.BOTH]:
            with ExitStack() as stack:
                url = options.url or stack.enter_context(running_server(policy, options.model, Reporter(sys.stderr)))
                for clip in clips * options.rounds:
                    runs.setdefault(clip.path, []).append((policy, asyncio.run(stream(clip, url, options.api_key))))
    except (OSError, ValueError, LauncherError, starling_client.StarlingError) as error:
        print(f"training.punctuation.live: {error}", file=sys.stderr)
        return 1
    for clip in clips:
        report(clip, runs[clip.path])
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--manifest", type=Path, default=DEFAULT_MANIFEST, help="table: file, language, transcript")
    parser.add_argument("--clip", action="append", help="recordings whose file name holds this (default: two_cities)")
    parser.add_argument("--policy", action="append", choices=list(Policy), help="instead of asr and both")
    parser.add_argument("--model", type=Path, help="folder with other punctuation weights than those in the tree")
    parser.add_argument("--rounds", type=int, default=1, help="how often each recording is sent")
    parser.add_argument("--url", help="a running server, whatever its policy; without it one is started")
    parser.add_argument("--api-key")
    return parser


if __name__ == "__main__":
    sys.exit(main())
