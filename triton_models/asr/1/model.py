"""Triton's side of the English engine."""

from __future__ import annotations

from pathlib import Path

from engines.moonshine.engine import MoonshineEngine
from triton_models.speech import SpeechModel


class TritonPythonModel(SpeechModel):
    """What Triton looks for."""

    def make_engine(self, model_dir: Path, device_id: int, parameters: dict[str, str]) -> MoonshineEngine:
        """See `SpeechModel`."""
        return MoonshineEngine(
            model_dir,
            device=parameters["DEVICE"],
            device_id=device_id,
            precision=parameters["PRECISION"],
            threads=int(parameters["THREADS"]),
        )
