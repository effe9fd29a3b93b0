"""A window's text is the one plain greedy decoding gives, whoever shares its batch and whatever was proposed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from engines.base import Hypothesis, Window
from engines.moonshine.engine import MoonshineEngine
from tests.engines.conftest import Clip
from tests.engines.moonshine.oracle import Oracle

Audio = NDArray[np.int16]
CutWindows = Callable[..., list[Audio]]
VOCABULARY = 32768


def decode(engine: MoonshineEngine, audios: list[Audio], drafts: list[list[int]] | None = None) -> list[Hypothesis]:
    drafts = drafts or [[] for _ in audios]
    windows = [Window(audio, "en", np.array(draft, np.int32)) for audio, draft in zip(audios, drafts, strict=True)]
    results = engine.transcribe(windows)
    assert all(isinstance(result, Hypothesis) for result in results), results
    return [result for result in results if isinstance(result, Hypothesis)]


def same(first: Hypothesis, second: Hypothesis) -> bool:
    return first.tokens.tolist() == second.tokens.tolist() and first.confidence == second.confidence


def spoil(tokens: list[int], rng: np.random.Generator) -> list[int]:
    """A draft with tokens cut off, changed, dropped and put in."""
    spoiled = tokens[: rng.integers(len(tokens) + 1)] if rng.random() < 0.3 else list(tokens)
    for _ in range(rng.integers(4)):
        at = int(rng.integers(len(spoiled) + 1))
        spoiled[at : at + int(rng.integers(2))] = rng.integers(-10, VOCABULARY + 10, rng.integers(3)).tolist()
    return spoiled


def check_windows(engine: MoonshineEngine, oracle: Oracle, audios: list[Audio], seed: int) -> None:
    rng = np.random.default_rng(seed)
    alone = [decode(engine, [audio])[0] for audio in audios]
    for audio, hypothesis in zip(audios, alone, strict=True):
        assert hypothesis.tokens.tolist() == oracle(audio)
    start = 0
    while start < len(audios):
        stop = start + int(rng.integers(1, 17))
        drafts = [spoil(hypothesis.tokens.tolist(), rng) for hypothesis in alone[start:stop]]
        for given in (None, drafts):
            for got, wanted in zip(decode(engine, audios[start:stop], given), alone[start:stop], strict=True):
                assert same(got, wanted)
        start = stop


@pytest.fixture(scope="module")
def oracle(moonshine_dir: Path) -> Oracle:
    return Oracle(moonshine_dir)


def test_some_dozens_of_windows(moonshine: MoonshineEngine, oracle: Oracle, cut_windows: CutWindows) -> None:
    check_windows(moonshine, oracle, cut_windows(24, seed=1), seed=2)


@pytest.mark.soak
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("seed", range(10))
def test_thousands_of_windows(moonshine: MoonshineEngine, oracle: Oracle, cut_windows: CutWindows, seed: int) -> None:
    check_windows(moonshine, oracle, cut_windows(300, seed=100 + seed, longest=8.0), seed=seed)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_float_graphs_too(moonshine_dir: Path, cut_windows: CutWindows) -> None:
    engine = MoonshineEngine(moonshine_dir, precision="fp32", threads=2)
    check_windows(engine, Oracle(moonshine_dir, "fp32"), cut_windows(200, seed=50), seed=51)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("neighbours", [1, 2, 5, 16])
def test_neighbours_do_not_matter(
    moonshine_dir: Path, moonshine: MoonshineEngine, cut_windows: CutWindows, neighbours: int, threads: int
) -> None:
    engine = moonshine if threads == 2 else MoonshineEngine(moonshine_dir, threads=1)
    audio, *others = cut_windows(neighbours + 1, seed=neighbours, longest=3.0)
    (alone,) = decode(engine, [audio])
    for place in (0, neighbours):
        batch = [*others[:place], audio, *others[place:]]
        assert same(decode(engine, batch)[place], alone)


def test_growing_windows_with_the_last_hypothesis_as_draft(moonshine: MoonshineEngine, clips: list[Clip]) -> None:
    audio = clips[0].audio
    draft: list[int] = []
    saved = 0.0
    for stop in range(8000, 80000, 8000):
        (plain,), (drafted,) = decode(moonshine, [audio[:stop]]), decode(moonshine, [audio[:stop]], [draft])
        assert same(plain, drafted)
        saved += plain.stats["decoder_passes"] - drafted.stats["decoder_passes"]
        draft = drafted.tokens.tolist()
    assert saved > 20


@pytest.mark.parametrize(
    "draft",
    [
        pytest.param([-1] * 10, id="negative"),
        pytest.param([VOCABULARY, 2**31 - 1, -(2**31)], id="out of range"),
        pytest.param([1, 2, 0, 2, 2], id="marks"),
        pytest.param([29889] * 500, id="far too long"),
        pytest.param(list(range(3, 2000)), id="nonsense"),
    ],
)
def test_garbage_drafts_are_harmless(moonshine: MoonshineEngine, clips: list[Clip], draft: list[int]) -> None:
    audio = clips[1].audio
    (plain,), (drafted,) = decode(moonshine, [audio]), decode(moonshine, [audio], [draft])
    assert same(plain, drafted)


def test_the_right_draft_takes_one_pass(moonshine: MoonshineEngine, clips: list[Clip]) -> None:
    (plain,) = decode(moonshine, [clips[1].audio])
    (drafted,) = decode(moonshine, [clips[1].audio], [plain.tokens.tolist()])
    assert same(plain, drafted)
    assert drafted.stats["decoder_passes"] == 1
