"""Nothing is told to anybody who was not asked."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from launcher.paths import SOURCE_ROOT


@pytest.mark.parametrize("module", ["server.audio.vad", "engines.moonshine.engine", "engines.punctuation.engine"])
def test_onnx_runtime_keeps_to_itself(module: str, tmp_path: Path) -> None:
    kept = {name: value for name, value in os.environ.items() if name not in ("ORT_DISABLE_TELEMETRY", "CI")}
    subprocess.run(
        [sys.executable, "-c", f"import {module}"],
        env={**kept, "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": str(SOURCE_ROOT)},
        check=True,
        timeout=120,
    )
    # It would begin with an identifier of this machine.
    assert list(tmp_path.rglob("*")) == []
