"""A short run of each target under atheris; `python -m tests.fuzz.run` goes on for longer."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher.paths import Paths
from tests.fuzz.run import fuzz, install
from tests.fuzz.targets import TARGETS
from tests.soak.report import setting

SECONDS = setting("FUZZ_SECONDS", 60)


@pytest.fixture(scope="module")
def folder() -> Path:
    folder = Paths.from_environment().state / "fuzz"
    install(folder)
    return folder


@pytest.mark.soak
@pytest.mark.parametrize("name", TARGETS)
def test_nothing_breaks(name: str, folder: Path) -> None:
    assert fuzz(name, SECONDS, folder) == 0
