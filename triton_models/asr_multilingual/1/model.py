"""Triton's side of the multilingual engine."""

from __future__ import annotations

from pathlib import Path

from engines.whisper.engine import WhisperEngine
from triton_models.speech import SpeechModel


class TritonPythonModel(SpeechModel):
    """What Triton looks for."""

    def make_engine(self, model_dir: Path, device_id: int, parameters: dict[str, str]) -> WhisperEngine:
        """See `SpeechModel`."""
        return WhisperEngine(
            model_dir,
            device=parameters["DEVICE"],
            device_id=device_id,
            compute_type=parameters["COMPUTE_TYPE"],
            threads=int(parameters["THREADS"]),
        )
