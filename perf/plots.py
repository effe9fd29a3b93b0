"""The figures as pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt

BLUE, ORANGE, GREEN, RED, GREY = "#2f6db5", "#d98324", "#3c8d5a", "#b5433c", "#777777"
COLOURS = (BLUE, ORANGE, GREEN, RED, GREY)
STYLE: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "axes.titlesize": 10,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
}


def plot_levels(summary: Mapping[str, Any], target: Path) -> None:
    """Lag, time to final, CPU and batch size against the number of streams; `summary` is `stream_load`'s."""
    levels = sorted(summary["levels"], key=lambda level: int(level["streams"]))
    streams = [level["streams"] for level in levels]
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(2, 2, figsize=(8.5, 6))
        figure.suptitle(f"{summary['machine']['cores']} cores, speech {summary['speech']}")
        _clock(axes[0][0], levels, "partial_lag", "partial lag (ms)", summary["limits"]["partial_lag_p95"])
        _clock(axes[0][1], levels, "end_to_final", "end of speech to final (ms)", summary["limits"]["end_to_final_p95"])
        bottom = [0.0] * len(levels)
        for colour, group in zip(COLOURS, ("triton", "gateway"), strict=False):
            used = [level["cpu_s_per_stream_s"].get(group) or 0.0 for level in levels]
            axes[1][0].bar([str(n) for n in streams], used, bottom=bottom, color=colour, label=group, width=0.6)
            bottom = [below + value for below, value in zip(bottom, used, strict=True)]
        axes[1][0].set(title="CPU seconds for a second of one stream", xlabel="streams")
        axes[1][0].legend()
        for colour, model in zip(COLOURS, sorted({name for level in levels for name in level["models"]}), strict=False):
            sizes = [level["models"].get(model, {}).get("mean_batch") for level in levels]
            axes[1][1].plot(streams, sizes, "o-", color=colour, label=model)
        axes[1][1].set(title="mean batch at Triton", xlabel="streams", ylim=(0, None))
        axes[1][1].legend()
        _save(figure, target)


def _clock(axis: Any, levels: Sequence[Mapping[str, Any]], clock: str, title: str, limit: float) -> None:
    streams = [level["streams"] for level in levels]
    for colour, rank in zip((GREY, BLUE, ORANGE), ("p50", "p95", "p99"), strict=True):
        seconds = [level["clocks_s"][clock][rank] for level in levels]
        axis.plot(streams, [None if s is None else s * 1000 for s in seconds], "o-", color=colour, label=rank)
    axis.axhline(limit * 1000, color=RED, linestyle="--", linewidth=1, label="limit for p95")
    axis.set(title=title, xlabel="streams", ylim=(0, None))
    axis.legend()


def plot_throughput(rows: Sequence[Mapping[str, Any]], target: Path) -> None:
    """Latency against throughput, one line for each model, kind of load and kind of window."""
    series: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        series.setdefault((str(row["model"]), f"{row['load']}, {row['windows']}"), []).append(row)
    models = sorted({model for model, _ in series})
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, len(models), figsize=(4.6 * len(models), 3.6), squeeze=False)
        for axis, model in zip(axes[0], models, strict=True):
            named = [(name, points) for (of, name), points in sorted(series.items()) if of == model]
            for colour, (name, points) in zip(COLOURS, named, strict=False):
                throughput = [point["throughput"] for point in points]
                line = axis.plot(
                    throughput, [point["p95_ms"] for point in points], "o-", color=colour, label=f"{name}, p95"
                )
                axis.plot(
                    throughput, [point["p50_ms"] for point in points], ":", color=line[0].get_color(), linewidth=1
                )
            axis.set(title=model, xlabel="windows a second", ylabel="latency (ms), dotted: p50", ylim=(0, None))
            axis.set_xlim(left=0)
            axis.legend(fontsize=7)
        _save(figure, target)


def plot_comparison(rows: Sequence[Mapping[str, Any]], target: Path) -> None:
    """CPU, lag and time to final of the systems beside each other."""
    names = [str(row["system"]) for row in rows]
    panels = (
        ("core_per_stream", "cores for one stream", 1.0),
        ("partial_lag_p95", "partial lag p95 (ms)", 1000.0),
        ("end_to_final_p50", "end of speech to final p50 (ms)", 1000.0),
        ("wer", "word error rate (%)", 100.0),
    )
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, len(panels), figsize=(11, 3))
        for axis, (key, title, scale) in zip(axes, panels, strict=True):
            values = [(row[key] or 0.0) * scale for row in rows]
            bars = axis.bar(names, values, color=COLOURS[: len(names)], width=0.6)
            axis.bar_label(bars, [f"{value:.0f}" if value >= 100 else f"{value:.2g}" for value in values], fontsize=8)
            axis.set_title(title)
            axis.tick_params(axis="x", labelsize=7)
        _save(figure, target)


def plot_gateway(levels: Sequence[Mapping[str, Any]], target: Path) -> None:
    """Use of the one core and delay of the event loop against streams, a line for each length of frame."""
    with plt.rc_context(STYLE):
        figure, (left, right) = plt.subplots(1, 2, figsize=(8.5, 3.4))
        for colour, frame_ms in zip(COLOURS, sorted({level["frame_ms"] for level in levels}), strict=False):
            points = sorted(
                (level for level in levels if level["frame_ms"] == frame_ms), key=lambda p: int(p["streams"])
            )
            streams = [point["streams"] for point in points]
            left.plot(streams, [point["core"] for point in points], "o-", color=colour, label=f"{frame_ms:g} ms frames")
            delays = [point["loop_delay_p99_at_most_s"] for point in points]
            right.plot(
                streams,
                [None if delay is None else delay * 1000 for delay in delays],
                "o-",
                color=colour,
                label=f"{frame_ms:g} ms frames",
            )
        right.axhline(50, color=RED, linestyle="--", linewidth=1, label="limit")
        left.set(title="share of the gateway's core", xlabel="streams", ylim=(0, None))
        right.set(title="event loop delay p99 (ms, at most)", xlabel="streams", ylim=(0, None))
        left.legend()
        right.legend()
        _save(figure, target)


def _save(figure: Any, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=110)
    plt.close(figure)
