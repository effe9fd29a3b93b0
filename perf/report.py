"""Figures to a report that can be read: ratios first, absolute times with the machine they belong to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

BUSY = 0.5
"""Load per core from which a machine was busy with other things when the run began."""


def write_report(machine: Mapping[str, Any], figures: Mapping[str, Mapping[str, Any] | None]) -> str:
    """The report as Markdown; `figures` by part, None for a part that failed."""
    sections: dict[str, tuple[str, Callable[[Mapping[str, Any]], list[str]]]] = {
        "compare": ("Beside other ways to stream the same weights", _compare),
        "streams": ("Live streams on the whole server", _streams),
        "gateway": ("The gateway alone, on one core", _gateway),
        "perf_analyzer": ("Triton alone, by NVIDIA's perf_analyzer", _perf_analyzer),
    }
    lines = ["# Benchmark report", "", *_about(machine)]
    for name, values in figures.items():
        title, write = sections[name]
        lines += ["", f"## {title}", ""]
        if values is None:
            lines.append("This part failed; its message is in the output of the run.")
            continue
        lines += [*write(values), "", f"![{title}](plots/{name}.png)"]
    return "\n".join(lines) + "\n"


def _about(machine: Mapping[str, Any]) -> list[str]:
    busy = machine["load_average"] / machine["cores"] > BUSY
    lines = [
        "Written by `make bench`, which takes about five minutes: short runs. `perf/README.md` has the long ones and "
        "says what each figure means.",
        "",
        f"Machine: {machine['processor']}, {machine['cores']} cores, {machine['memory_gib']} GiB, {machine['system']}, "
        f"Python {machine['python']}; commit {machine['commit']}, {machine['at']}. "
        f"The load average at the start was {machine['load_average']}.",
    ]
    if busy:
        lines += [
            "",
            "**The machine was busy with other work.** Delays are longer than they would be, and CPU time is somewhat "
            "larger; ratios within one run hold best.",
        ]
    return lines


def _compare(values: Mapping[str, Any]) -> list[str]:
    rows = {row["system"]: row for row in values["rows"]}
    ours, theirs = rows["starling"], rows["moonshine-voice"]
    ratio = theirs["core_per_stream"] / ours["core_per_stream"]
    return [
        f"One stream, {ours['seconds']:.0f} s of audio. moonshine-voice's own streaming takes **{ratio:.1f} times** "
        f"the CPU of Starling ({theirs['core_per_stream']:.2f} against {ours['core_per_stream']:.2f} of a core, all "
        f"processes counted), updating every {values['interval_s']:g} s. The naive loop decodes the whole segment each "
        "time, with the same engine. Bold: multiples of Starling's figure.",
        "",
        values["table"],
    ]


def _streams(values: Mapping[str, Any]) -> list[str]:
    held = [level["streams"] for level in values["levels"] if not level["broken"]]
    limits = values["limits"]
    lines = [
        f"Speech {values['speech']}, {values['seconds']:g} s at each level, frames of {values['frame_ms']:g} ms. "
        f"A level holds when partial lag p95 is at most {limits['partial_lag_p95'] * 1000:.0f} ms, end of speech to "
        f"final p95 at most {limits['end_to_final_p95'] * 1000:.0f} ms, and nothing failed. "
        + (f"The most that held here: **{max(held)}**." if held else "**None held.**"),
        "",
        "| streams | holds | partial lag p50/p95/p99 ms | final p50/p95/p99 ms | cores a stream: gateway | Triton "
        "| batch | WER | flicker |",
        "| ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    lines += [_stream_row(level) for level in values["levels"]]
    failed = [level for level in values["levels"] if level["broken"]]
    broken = [f"- {level['streams']} streams: {'; '.join(level['broken'])}" for level in failed]
    return [*lines, *([""] if broken else []), *broken]


def _stream_row(level: Mapping[str, Any]) -> str:
    clocks, cpu = level["clocks_s"], level["cpu_s_per_stream_s"]
    batches = [model["mean_batch"] for model in level["models"].values() if model["mean_batch"]]
    rates = ", ".join(f"{errors['rate']:.1%}" for errors in level["wer"].values())
    cells = [
        str(level["streams"]),
        "no" if level["broken"] else "yes",
        _times(clocks["partial_lag"]),
        _times(clocks["end_to_final"]),
        _number(cpu.get("gateway"), 3),
        _number(cpu.get("triton"), 3),
        _number(max(batches, default=None), 1),
        rates or "-",
        _number(level["flicker"], 2),
    ]
    return f"| {' | '.join(cells)} |"


def _gateway(values: Mapping[str, Any]) -> list[str]:
    lines = [
        "Triton's model answers at once; voice activity and stores are on. By CPU: how many streams one core would "
        "carry if all of it were used.",
        "",
        "| streams | frames | share of the core | streams a core by CPU | loop delay p99 | partial lag p95 "
        "| memory a stream | holds |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for level in values["levels"]:
        cells = [
            str(level["streams"]),
            f"{level['frame_ms']:g} ms",
            f"{level['core']:.0%}",
            str(level["streams_per_core_by_cpu"] or "-"),
            _bound(level["loop_delay_p99_at_most_s"]),
            _bound(level["partial_lag"]["p95_at_most"]),
            f"{level['memory_kib_per_stream']:.0f} KiB",
            "no: " + "; ".join(level["broken"]) if level["broken"] else "yes",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _perf_analyzer(values: Mapping[str, Any]) -> list[str]:
    best: dict[tuple[str, str], float] = {}
    for row in values["rows"]:
        key = (row["model"], row["windows"])
        best[key] = max(best.get(key, 0.0), row["throughput"])
    lines = ["Real windows of 1 to 10 s, none of them padded to another."]
    plain, drafted = best.get(("asr", "no draft")), best.get(("asr", "draft"))
    if plain and drafted:
        lines.append(f"Drafts give the English model **{drafted / plain:.1f} times** the windows a second.")
    return [" ".join(lines), "", values["table"]]


def _times(clock: Mapping[str, Any]) -> str:
    return " / ".join("-" if clock[rank] is None else f"{clock[rank] * 1000:.0f}" for rank in ("p50", "p95", "p99"))


def _bound(seconds: float | None) -> str:
    return "-" if seconds is None else f"≤ {seconds * 1000:.0f} ms"


def _number(value: float | None, places: int) -> str:
    return "-" if value is None else f"{value:.{places}f}"
