"""Weights from the cache, and real speech to decode."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray
from scipy.signal import resample_poly

from engines.moonshine.engine import MoonshineEngine
from engines.whisper.engine import WhisperEngine

AUDIO = Path(__file__).parent.parent / "data" / "audio"


@dataclass(frozen=True)
class Clip:
    name: str
    audio: NDArray[np.int16]
    transcript: str


def _model_dir(name: str) -> Path:
    cache = Path(os.environ.get("STARLING_CACHE_DIR") or "~/.cache/starling").expanduser()
    folder = cache / "models" / name
    if not folder.is_dir():
        pytest.fail(f"{folder} is missing: run `make setup` first")
    return folder


@pytest.fixture(scope="session")
def moonshine_dir() -> Path:
    return _model_dir("moonshine-tiny-en")


@pytest.fixture(scope="session")
def whisper_dir() -> Path:
    return _model_dir("whisper-base")


@pytest.fixture(scope="session")
def moonshine(moonshine_dir: Path) -> Iterator[MoonshineEngine]:
    engine = MoonshineEngine(moonshine_dir, threads=2)
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def whisper(whisper_dir: Path) -> Iterator[WhisperEngine]:
    engine = WhisperEngine(whisper_dir, threads=2)
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def clips() -> list[Clip]:
    found = []
    with (AUDIO / "transcripts.tsv").open(newline="") as table:
        for row in csv.DictReader(table, delimiter="\t"):
            audio, rate = soundfile.read(AUDIO / row["file"], dtype="float32")
            if rate != 16000:
                audio = resample_poly(audio, 16000, rate)
            samples = (np.clip(audio, -1, 1) * 32767).astype(np.int16)
            found.append(Clip(row["file"], samples, row["transcript"]))
    return found


MakeWindows = Callable[..., list[NDArray[np.int16]]]


@pytest.fixture(scope="session")
def cut_windows(clips: list[Clip]) -> MakeWindows:
    """`cut_windows(count, seed, longest=5.0)`: stretches of speech, cut anywhere, of 0.3 s to `longest`."""

    def cut(count: int, seed: int, longest: float = 5.0) -> list[NDArray[np.int16]]:
        rng = np.random.default_rng(seed)
        windows = []
        for _ in range(count):
            audio = clips[rng.integers(len(clips))].audio
            length = min(int(16000 * rng.uniform(0.3, longest)), len(audio))
            start = rng.integers(len(audio) - length + 1)
            windows.append(audio[start : start + length])
        return windows

    return cut


@pytest.fixture(scope="session")
def word_errors() -> Callable[[str, str], tuple[int, int]]:
    """`word_errors(reference, hypothesis)`: edits and words, case and marks folded."""

    def fold(text: str) -> list[str]:
        return re.sub(r"[^\w' ]+", " ", text.lower()).split()

    def count(reference: str, hypothesis: str) -> tuple[int, int]:
        wanted, heard = fold(reference), fold(hypothesis)
        row = list(range(len(heard) + 1))
        for i, word in enumerate(wanted, 1):
            above = row
            row = [i]
            for j, other in enumerate(heard, 1):
                row.append(min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (word != other)))
        return row[-1], len(wanted)

    return count
