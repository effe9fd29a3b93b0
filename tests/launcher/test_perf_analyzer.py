from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from launcher.perf_analyzer import ensure_perf_analyzer
from launcher.progress import Reporter
from launcher.setup import Installation
from tests.launcher.conftest import MakeEcho


@pytest.mark.triton
def test_it_measures_a_real_triton(make_echo: MakeEcho, installation: Installation, tmp_path: Path) -> None:
    tool = ensure_perf_analyzer(installation.paths, Reporter(quiet=True), installation.triton)
    process = make_echo()
    process.start()
    process.wait_ready()
    data = tmp_path / "input.json"
    data.write_text('{"data": [{"TEXT": ["hello"]}]}')
    table = tmp_path / "table.csv"

    command = [str(tool.program), "-m", "echo", "-i", "grpc", "-u", process.options.grpc_url]
    command += ["--input-data", str(data), "--measurement-mode", "count_windows", "--measurement-request-count", "20"]
    # Stability is a matter of real measurements: any three windows will do here.
    command += ["--stability-percentage", "999", "-f", str(table)]
    run = subprocess.run(
        command, env=tool.process_environment(), capture_output=True, text=True, timeout=120, check=False
    )

    assert run.returncode == 0, run.stdout + run.stderr
    header, row = table.read_text().splitlines()[:2]
    measured = dict(zip(header.split(","), row.split(","), strict=False))
    assert float(measured["Inferences/Second"]) > 0


def test_the_second_time_needs_no_network(installation: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    first = ensure_perf_analyzer(installation.paths, Reporter(quiet=True), installation.triton)
    monkeypatch.setenv("PIP_NO_INDEX", "1")

    assert ensure_perf_analyzer(installation.paths, Reporter(quiet=True), installation.triton) == first
