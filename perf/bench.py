"""The short form of every benchmark, about five minutes: `make bench`, or `python -m perf.bench [PART ...]`.

Writes `perf/REPORT.md` and the pictures in `perf/plots/`. The parts run one after the other, each on a server of its
own. A part that fails is named in the report and does not keep the others from it.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perf import gateway, stream_load
from perf.compare import __main__ as compare
from perf.machine import describe_machine
from perf.perf_analyzer import __main__ as perf_analyzer
from perf.report import write_report
from perf.track import DEFAULT_MANIFEST

FOLDER = Path(__file__).resolve().parent


@dataclass(frozen=True, slots=True)
class Part:
    """One benchmark in its short form.

    Attributes:
        main: its command, which takes `--json` and `--plot`.
        arguments: what makes it short.
        takes_s: about how long it takes on an idle machine.
    """

    main: Callable[[Sequence[str] | None], int]
    arguments: tuple[str, ...]
    takes_s: int


PARTS: Mapping[str, Part] = {
    "compare": Part(compare.main, ("--clip", "two_cities"), 155),
    "streams": Part(stream_load.main, ("--streams", "1", "8", "--continuous", "--seconds", "40"), 105),
    "gateway": Part(gateway.main, ("--streams", "250", "--seconds", "10"), 45),
    "perf_analyzer": Part(
        perf_analyzer.main,
        ("--concurrency", "1", "4", "--rates", "0.5", "--requests", "32", "--windows", "32"),
        60,
    ),
}


def run_parts(names: Sequence[str], manifest: Path, plots: Path) -> dict[str, Any]:
    """Runs the parts and returns their figures by name, None for one that failed."""
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="starling-bench-") as name:
        for number, part_name in enumerate(names, start=1):
            part = PARTS[part_name]
            print(f"[{number}/{len(names)}] {part_name}, about {part.takes_s} s", file=sys.stderr, flush=True)
            target = Path(name) / f"{part_name}.json"
            plot = plots / f"{part_name}.png"
            files = ["--manifest", str(manifest), "--json", str(target), "--plot", str(plot)]
            status = part.main([*part.arguments, *files])
            if status == 130:
                raise KeyboardInterrupt
            figures[part_name] = json.loads(target.read_text()) if status == 0 else None
    return figures


def main(argv: Sequence[str] | None = None) -> int:
    """Run from the command line; 1 where a part failed."""
    parser = argparse.ArgumentParser(
        prog="perf.bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", nargs="*", choices=[*PARTS, []], help=f"of {', '.join(PARTS)} (default: all)")
    parser.add_argument("--manifest", type=Path, default=DEFAULT_MANIFEST, help="table: file, language, transcript")
    parser.add_argument("--report", type=Path, default=FOLDER / "REPORT.md")
    options = parser.parse_args(argv)
    plots = options.report.parent / "plots"
    plots.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    machine = describe_machine()
    try:
        figures = run_parts(options.part or list(PARTS), options.manifest, plots)
    except KeyboardInterrupt:
        return 130
    options.report.write_text(write_report(machine, figures), encoding="utf-8")
    print(f"{options.report} after {time.monotonic() - began:.0f} s", file=sys.stderr)
    return 1 if None in figures.values() else 0


if __name__ == "__main__":
    sys.exit(main())
