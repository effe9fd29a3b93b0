"""What the tests of the audio room share: real speech and the real model."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

CLIPS = Path(__file__).parents[2] / "data/audio"


def read_clip(name: str) -> NDArray[np.int16]:
    samples: NDArray[np.int16] = soundfile.read(CLIPS / name, dtype="int16")[0]
    return samples


@pytest.fixture(scope="session")
def jfk() -> NDArray[np.int16]:
    """11 s of speech at 16 kHz, with pauses."""
    return read_clip("jfk.wav")


@pytest.fixture(scope="session")
def two_cities() -> NDArray[np.int16]:
    """44 s of speech at 48 kHz."""
    return read_clip("two_cities.wav")


@pytest.fixture(scope="session")
def silero_path() -> Path:
    cache = Path(os.environ.get("STARLING_CACHE_DIR") or Path.home() / ".cache/starling")
    model = cache / "models/silero-vad/silero_vad.onnx"
    if not model.is_file():
        pytest.fail(f"{model} is missing: `make test` fetches it, or set STARLING_CACHE_DIR")
    return model
