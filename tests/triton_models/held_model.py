"""A speech model whose engine waits for the test: for what happens to requests that queue behind a busy one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from engines.base import Engine, Hypothesis, Window
from triton_models.speech import WARM_UP_SECONDS, SpeechModel


class HeldEngine:
    """Answers with the number of windows that it was given before; those in the language ``held`` wait.

    For such a window the named pipe ``begun`` in the model's folder can be read, and it goes on when ``go`` is written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._given = -len(WARM_UP_SECONDS)

    def transcribe(self, windows: Sequence[Window]) -> list[Hypothesis]:
        """One answer for each window."""
        if any(window.language == "held" for window in windows):
            (self._folder / "begun").write_text("")
            (self._folder / "go").read_text()
        answer = Hypothesis(str(self._given), np.empty(0, np.int32), 0.0, "en")
        self._given += len(windows)
        return [answer] * len(windows)

    def close(self) -> None:
        """Holds nothing."""


class TritonPythonModel(SpeechModel):
    """What Triton looks for."""

    def make_engine(self, model_dir: Path, device_id: int, parameters: dict[str, str]) -> Engine:
        """See `SpeechModel`."""
        return HeldEngine(model_dir)
