"""NVIDIA's perf_analyzer against the speech models, with real windows of 1 to 10 s.

    python -m perf.perf_analyzer [--json FILE] [--plot FILE]

Starts a Triton and sends each model its windows at rising concurrency, then at random times (Poisson) at shares of the
throughput found. `asr` gets them twice: without drafts, as a segment's first window, and with the tokens of the window
one hop shorter, as all the others. `--export FOLDER` writes the input files and the commands, for perf_analyzer in
NVIDIA's SDK container.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import InferenceServerClient, InferInput

from launcher.errors import LauncherError
from launcher.paths import Paths
from launcher.perf_analyzer import PerfAnalyzer, ensure_perf_analyzer
from launcher.progress import Reporter
from perf.accuracy import Clip
from perf.machine import describe_machine
from perf.perf_analyzer.inputs import Window, cut_windows, write_inputs
from perf.perf_analyzer.runs import Load, Row, arguments, run, table
from perf.plots import plot_throughput
from perf.stack import running_triton
from perf.track import DEFAULT_MANIFEST, load_clips

MODELS = ("asr", "asr_multilingual")
DECODE_TIMEOUT_S = 60.0


class TokenSource:
    """Asks a model for the tokens of windows."""

    def __init__(self, grpc_url: str, model: str) -> None:
        self._client = InferenceServerClient(grpc_url)
        self._model = model

    def __call__(self, audio: NDArray[np.int16], language: str) -> NDArray[np.int32]:
        """int32 tokens, shape (m,)."""
        sound = InferInput("AUDIO", [1, len(audio)], "INT16")
        sound.set_data_from_numpy(audio[None])
        code = InferInput("LANGUAGE", [1, 1], "BYTES")
        code.set_data_from_numpy(np.array([[language.encode()]], np.object_))
        answer = self._client.infer(self._model, [sound, code], client_timeout=DECODE_TIMEOUT_S)
        return np.asarray(answer.as_numpy("TOKENS"), np.int32).reshape(-1)

    def close(self) -> None:
        """Ends the connection."""
        self._client.close()


def make_windows(clips: Sequence[Clip], grpc_url: str, model: str, count: int) -> dict[str, list[Window]]:
    """The kinds of windows that a model is measured with, by their names in the table."""
    kinds = {"no draft": cut_windows(clips, count)}
    if model == "asr":
        source = TokenSource(grpc_url, model)
        kinds["draft"] = cut_windows(clips, count, source)
        source.close()
    return kinds


def measure_model(
    model: str, clips: Sequence[Clip], grpc_url: str, *, tool: PerfAnalyzer, options: argparse.Namespace, folder: Path
) -> list[Row]:
    """All runs of one model."""
    rows: list[Row] = []
    for kind, windows in make_windows(clips, grpc_url, model, options.windows).items():
        inputs = folder / f"{model}.{kind.replace(' ', '_')}.json"
        write_inputs(windows, inputs)

        def one(load: Load, kind: str = kind, inputs: Path = inputs) -> Row:
            row = run(
                tool,
                model,
                kind,
                grpc_url=grpc_url,
                inputs=inputs,
                load=load,
                requests=options.requests,
                folder=folder,
            )
            rows.append(row)
            print(
                f"{model}, {kind}, {load.kind} {load.amount}: {row.throughput:.1f} windows/s, "
                f"p50 {row.p50_ms:.0f} p95 {row.p95_ms:.0f} ms",
                file=sys.stderr,
                flush=True,
            )
            return row

        most = max(one(Load(concurrency=concurrency)).throughput for concurrency in options.concurrency)
        # perf_analyzer takes a rate under 1 for the beginning of a range.
        for rate in sorted({max(1.0, most * share) for share in options.rates}):
            one(Load(rate=rate))
    return rows


def export(models: Sequence[str], options: argparse.Namespace, reporter: Reporter) -> None:
    """Writes input files and a script with the commands into a folder that a container can see."""
    folder: Path = options.export
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["#!/bin/sh", "# In NVIDIA's SDK container: TRITON=host:8001 sh run.sh", "set -e"]
    with (
        tempfile.TemporaryDirectory(prefix="starling-perf-") as name,
        running_triton(Path(name), reporter) as (triton, _),
    ):
        for model in models:
            kinds = make_windows(_clips(model, options.manifest), triton.options.grpc_url, model, options.windows)
            for kind, windows in kinds.items():
                stem = f"{model}.{kind.replace(' ', '_')}"
                write_inputs(windows, folder / f"{stem}.json")
                for level in options.concurrency:
                    output = Path(f"{stem}.{level}.csv")
                    command = arguments(
                        model,
                        "$TRITON",
                        Path(f"{stem}.json"),
                        load=Load(concurrency=level),
                        requests=options.requests,
                        output=output,
                    )
                    lines.append("perf_analyzer " + " ".join(map(_quoted, command)))
    (folder / "run.sh").write_text("\n".join(lines) + "\n")
    print(f"{folder}/run.sh", file=sys.stderr)


def _quoted(word: str) -> str:
    return '"$TRITON"' if word == "$TRITON" else shlex.quote(word)


def _clips(model: str, manifest: Path) -> list[Clip]:
    """English for the English model; for the other one the other languages, where the manifest has them."""
    clips = load_clips(manifest)
    others = [clip for clip in clips if clip.language != "en"]
    english = [clip for clip in clips if clip.language == "en"]
    return (english if model == "asr" else others) or english or clips


def measure(options: argparse.Namespace, reporter: Reporter) -> dict[str, Any]:
    """The figures of all models, ready for JSON."""
    rows: list[Row] = []
    tool = ensure_perf_analyzer(Paths.from_environment(), reporter)
    with tempfile.TemporaryDirectory(prefix="starling-perf-") as name:
        folder = Path(name)
        with running_triton(folder / "triton", reporter, options.model) as (triton, _):
            for model in options.model:
                clips = _clips(model, options.manifest)
                rows += measure_model(model, clips, triton.options.grpc_url, tool=tool, options=options, folder=folder)
    return {"machine": describe_machine(), "rows": [row.to_json() for row in rows], "table": table(rows)}


def main(argv: Sequence[str] | None = None) -> int:
    """Run from the command line; 1 where something could not be had or started."""
    options = parser().parse_args(argv)
    reporter = Reporter(sys.stderr)
    try:
        if options.export:
            export(options.model, options, reporter)
            return 0
        summary = measure(options, reporter)
    except (OSError, ValueError, LauncherError) as error:
        print(f"perf.perf_analyzer: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print(summary["table"])
    if options.json:
        options.json.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    if options.plot:
        plot_throughput(summary["rows"], options.plot)
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="perf.perf_analyzer", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--manifest", type=Path, default=DEFAULT_MANIFEST, help="table: file, language, transcript")
    made.add_argument("--model", nargs="+", default=list(MODELS), choices=MODELS)
    made.add_argument("--concurrency", type=int, nargs="+", default=[1, 2, 4, 8], metavar="N")
    made.add_argument(
        "--rates", type=float, nargs="*", default=[0.25, 0.5, 0.75, 0.9], metavar="SHARE", help="of the best throughput"
    )
    made.add_argument("--windows", type=int, default=48, help="different windows (default: 48)")
    made.add_argument("--requests", type=int, default=96, help="requests of one measurement (default: 96)")
    made.add_argument("--export", type=Path, metavar="FOLDER", help="write inputs and commands, measure nothing")
    made.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    made.add_argument("--plot", type=Path, metavar="FILE", help="draw them there (PNG or SVG)")
    return made


if __name__ == "__main__":
    sys.exit(main())
