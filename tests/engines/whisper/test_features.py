from __future__ import annotations

import numpy as np
import pytest

from engines.whisper.features import HOP, MelSpectrogram


@pytest.fixture(scope="module")
def mel() -> MelSpectrogram:
    return MelSpectrogram(80)


def _tone(hertz: float, seconds: float = 1.0) -> np.ndarray[tuple[int], np.dtype[np.int16]]:
    time = np.arange(int(16000 * seconds)) / 16000
    return (10000 * np.sin(2 * np.pi * hertz * time)).astype(np.int16)


def test_shape_and_type(mel: MelSpectrogram) -> None:
    features = mel(_tone(440), 150)
    assert features.shape == (80, 150)
    assert features.dtype == np.float32
    assert features.flags.c_contiguous


@pytest.mark.parametrize(("hertz", "band"), [(200, 4), (1000, 26), (2000, 43), (4000, 61)])
def test_a_tone_lights_its_band(mel: MelSpectrogram, hertz: float, band: int) -> None:
    """Bands of the Slaney scale: the first 26 are 37 Hz apart, then each is a fixed ratio above the last."""
    features = mel(_tone(hertz), 100)
    assert abs(int(features[:, 50].argmax()) - band) <= 1


def test_the_floor_is_80_decibels_below_the_loudest(mel: MelSpectrogram) -> None:
    features = mel(_tone(440), 300)
    assert features.max() - features.min() == pytest.approx(2.0)


def test_silence_is_flat(mel: MelSpectrogram) -> None:
    features = mel(np.zeros(16000, np.int16), 100)
    assert features.max() == features.min() == pytest.approx(-1.5)


def test_audio_longer_than_the_context_is_an_error(mel: MelSpectrogram) -> None:
    mel(_tone(440), 16000 // HOP)
    with pytest.raises(ValueError, match="do not fit"):
        mel(_tone(440), 16000 // HOP - 1)
