"""Runs of perf_analyzer, and its CSV files read."""

from __future__ import annotations

import csv
import io
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from launcher.errors import LauncherError
from launcher.perf_analyzer import PerfAnalyzer

LONGEST_S = 600.0


@dataclass(frozen=True, slots=True)
class Load:
    """What one run asks for.

    Attributes:
        concurrency: requests that are always under way; 0 for a rate.
        rate: requests a second on average, at random times (Poisson); 0 for a concurrency.
    """

    concurrency: int = 0
    rate: float = 0.0

    @property
    def kind(self) -> str:
        """For tables."""
        return "concurrency" if self.concurrency else "Poisson"

    @property
    def amount(self) -> str:
        """For tables."""
        return str(self.concurrency) if self.concurrency else f"{self.rate:.1f}/s"

    def arguments(self) -> list[str]:
        """For the command line."""
        if self.concurrency:
            return [f"--concurrency-range={self.concurrency}"]
        return [f"--request-rate-range={self.rate:.3f}", "--request-distribution=poisson"]


@dataclass(frozen=True, slots=True)
class Row:
    """What one run found; latencies in milliseconds, throughput in windows a second."""

    model: str
    windows: str
    load: str
    amount: str
    throughput: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    queue_ms: float
    compute_ms: float

    def to_json(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)


def arguments(model: str, grpc_url: str, inputs: Path, *, load: Load, requests: int, output: Path) -> list[str]:
    """What perf_analyzer is called with, here and in any container; needs perf_analyzer of 24.10 or newer."""
    return [
        "-m",
        model,
        "-i",
        "grpc",
        "-u",
        grpc_url,
        f"--input-data={inputs}",
        "--async",
        # So many requests and no windows of time: those would leave out every request that crosses a border.
        f"--request-count={requests}",
        *load.arguments(),
        "-f",
        str(output),
    ]


def run(
    tool: PerfAnalyzer,
    model: str,
    windows: str,
    *,
    grpc_url: str,
    inputs: Path,
    load: Load,
    requests: int,
    folder: Path,
) -> Row:
    """Runs perf_analyzer once.

    Raises:
        LauncherError: it failed; with what it said last.
    """
    output = folder / "result.csv"
    output.unlink(missing_ok=True)
    command = [str(tool.program), *arguments(model, grpc_url, inputs, load=load, requests=requests, output=output)]
    try:
        done = subprocess.run(
            command,
            env=tool.process_environment(),
            capture_output=True,
            text=True,
            timeout=LONGEST_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise LauncherError(f"perf_analyzer did not end on {model}", "ask for fewer requests: --requests") from None
    if not output.exists():
        raise LauncherError(
            f"perf_analyzer failed on {model}: {_reason(done.stderr + done.stdout)}",
            f"its command: {' '.join(command)}",
        )
    return read_row(output.read_text(), model, windows, load)


def _reason(output: str) -> str:
    """Its complaint, which stands before or behind a page of help."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    told = [
        line for line in lines if any(word in line.lower() for word in ("error", "fail", "can't", "cannot", "must"))
    ]
    return (told or lines or ["it printed nothing"])[0][:300]


def read_row(text: str, model: str, windows: str, load: Load) -> Row:
    """The last row of perf_analyzer's CSV file, whose times are microseconds.

    Raises:
        LauncherError: the file holds no row.
    """
    rows = list(csv.DictReader(io.StringIO(text)))
    if not rows:
        raise LauncherError(f"perf_analyzer measured nothing on {model}", "ask for more requests: --requests")
    row = rows[-1]

    def ms(*names: str) -> float:
        return sum(float(row[name]) for name in names) / 1000

    return Row(
        model=model,
        windows=windows,
        load=load.kind,
        amount=load.amount,
        throughput=float(row["Inferences/Second"]),
        p50_ms=ms("p50 latency"),
        p95_ms=ms("p95 latency"),
        p99_ms=ms("p99 latency"),
        queue_ms=ms("Server Queue"),
        compute_ms=ms("Server Compute Input", "Server Compute Infer", "Server Compute Output"),
    )


def table(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table."""
    lines = [
        "| model | windows | load | | windows/s | p50 ms | p95 ms | p99 ms | queue ms | compute ms |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {row.model} | {row.windows} | {row.load} | {row.amount} | {row.throughput:.1f} | {row.p50_ms:.0f} "
        f"| {row.p95_ms:.0f} | {row.p99_ms:.0f} | {row.queue_ms:.0f} | {row.compute_ms:.0f} |"
        for row in rows
    ]
    return "\n".join(lines)
