"""Real windows of mixed length as perf_analyzer's input data."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perf.accuracy import Clip
from perf.clocks import voiced_spans
from perf.track import read_samples

RATE = 16000
HOP_S = 0.32
LENGTHS_S = (1.0, 10.0)
"""Shortest and longest window: a segment's partials grow from one to the other before they are trimmed."""

Draft = Callable[[NDArray[np.int16], str], NDArray[np.int32]]
"""Decodes a window and returns its tokens."""


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """What one request holds.

    Attributes:
        audio: int16 at 16 kHz, shape (n,).
        language: code.
        draft: the tokens of the window one hop shorter, int32, shape (m,); None to send no draft.
    """

    audio: NDArray[np.int16]
    language: str
    draft: NDArray[np.int32] | None = None


def cut_windows(clips: Sequence[Clip], count: int, draft: Draft | None = None) -> list[Window]:
    """Windows that begin where speech begins, their lengths spread evenly over `LENGTHS_S`; always the same ones.

    Args:
        clips: taken in turns; one that is shorter than a window gives all it has.
        count: how many.
        draft: gives the tokens for drafts; None for windows without.
    """
    shortest, longest = LENGTHS_S
    windows = []
    for number in range(count):
        clip = clips[number % len(clips)]
        samples = read_samples(clip.path, RATE)
        starts = [span.start for span in voiced_spans(samples, RATE)] or [0.0]
        start = round(starts[number // len(clips) % len(starts)] * RATE)
        seconds = shortest + (longest - shortest) * number / max(1, count - 1)
        start = max(0, min(start, len(samples) - round(seconds * RATE)))
        audio = samples[start : start + round(seconds * RATE)]
        before = audio[: -round(HOP_S * RATE)]
        windows.append(Window(audio, clip.language, draft(before, clip.language) if draft else None))
    # Neighbours in a batch are of mixed length as they are in life.
    order = np.random.default_rng(0).permutation(count)
    return [windows[index] for index in order]


def write_inputs(windows: Sequence[Window], target: Path) -> None:
    """Writes the JSON file that perf_analyzer's `--input-data` reads; it goes round and round through it."""
    target.write_text(json.dumps({"data": [_entry(window) for window in windows]}))


def _entry(window: Window) -> dict[str, Any]:
    entry: dict[str, Any] = {"AUDIO": _tensor(window.audio.astype("<i2")), "LANGUAGE": [window.language]}
    if window.draft is not None:
        entry["DRAFT"] = _tensor(window.draft.astype("<i4"))
    return entry


def _tensor(values: NDArray[Any]) -> dict[str, Any]:
    return {"content": {"b64": base64.b64encode(values.tobytes()).decode()}, "shape": [len(values)]}
