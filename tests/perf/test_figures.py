import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from launcher.errors import LauncherError
from perf.clocks import Clocks
from perf.compare.__main__ import COLUMNS, summarize, table
from perf.compare.__main__ import parser as compare_parser
from perf.compare.workers import Outcome
from perf.gateway import GatewayLevel, core_seconds, read_counter
from perf.gateway import summarize as summarize_gateway
from perf.level import Cost, Level, Limits
from perf.perf_analyzer.inputs import Window, cut_windows, write_inputs
from perf.perf_analyzer.runs import Load, arguments, read_row
from perf.plots import plot_comparison, plot_gateway, plot_levels, plot_throughput
from perf.report import write_report
from perf.stack import ModelCounts, read_model_counts
from perf.track import DEFAULT_MANIFEST, load_clips
from perf.wer import WordErrors

MACHINE = {
    "processor": "a processor",
    "cores": 2,
    "memory_gib": 8.0,
    "system": "Linux",
    "python": "3.11",
    "commit": "abc",
    "load_average": 0.1,
    "at": "2026-01-01T00:00+00:00",
}
CSV = (
    "Concurrency,Inferences/Second,Client Send,Network+Server Send/Recv,Server Queue,Server Compute Input,"
    "Server Compute Infer,Server Compute Output,Client Recv,p50 latency,p90 latency,p95 latency,p99 latency\n"
    "4,21.5,40,900,12000,100,48000,60,5,61000,90000,95000,120000\n"
)


def level(streams: int, lag_s: float) -> Level:
    made = Level(streams, stream_s=streams * 10.0, speech_share=0.8, partials=30)
    made.clocks = Clocks(first_partial=[0.4], partial_lag=[lag_s] * 20, end_to_final=[0.6] * 4)
    made.costs = {"gateway": Cost(0.5, 0.01, 10**8, 1), "triton": Cost(2.0, 0.01, 5 * 10**8, 4)}
    made.models = {"asr": ModelCounts(40, 20, 0, 1.0, 0.1), "other": ModelCounts()}
    made.words = {"en": WordErrors(100, 3, 1, 1)}
    return made


def test_a_level_holds_within_its_limits() -> None:
    assert level(2, 0.45).broken(Limits()) == []
    assert level(2, 0.55).broken(Limits()) == ["partial lag p95 550 ms"]


def test_the_gateways_own_lag_counts_where_it_is_the_closer_bound() -> None:
    made = level(2, 0.55)
    made.server = {"partial lag": {"p95_at_most": 0.5}}
    assert made.broken(Limits()) == []
    made.server = {"partial lag": {"p95_at_most": 0.6}}
    assert made.broken(Limits()) == ["partial lag p95 550 ms"]


def test_errors_silence_and_a_late_generator_break_a_level() -> None:
    made = level(2, 0.1)
    made.troubles, made.late_p99 = {"closed with 1011": 2}, 0.2
    assert made.broken(Limits()) == ["2 x closed with 1011", "the load generator itself was 200 ms late"]
    assert Level(1).broken(Limits()) == ["no partials came"]


def test_cost_is_by_second_of_one_stream() -> None:
    made = level(4, 0.1)
    assert made.per_stream_second("triton") == pytest.approx(0.05)
    assert made.to_json()["models"] == {
        "asr": {
            "inferences": 40,
            "executions": 20,
            "failures": 0,
            "compute_s": 1.0,
            "queue_s": 0.1,
            "mean_batch": 2.0,
        }
    }


def test_triton_statistics_are_counted_by_batch() -> None:
    statistics = {
        "model_stats": [
            {
                "name": "asr",
                "inference_count": 5,
                "execution_count": 2,
                "inference_stats": {"fail": {"count": 1}, "queue": {"ns": 2_000_000_000}},
                "batch_stats": [{"compute_infer": {"ns": 10**9}}, {"compute_infer": {"ns": 2 * 10**9}}],
            }
        ]
    }
    counts = read_model_counts(statistics)["asr"]
    assert counts == ModelCounts(5, 2, 1, 3.0, 2.0)
    assert counts.since(ModelCounts(1, 1, 1, 1.0, 1.0)) == ModelCounts(4, 1, 0, 2.0, 1.0)


def test_perf_analyzers_file_is_read() -> None:
    row = read_row(CSV, "asr", "draft", Load(concurrency=4))
    assert (row.throughput, row.p50_ms, row.p95_ms, row.p99_ms) == (21.5, 61, 95, 120)
    assert row.queue_ms == 12
    assert row.compute_ms == pytest.approx(48.16)
    assert (row.load, row.amount) == ("concurrency", "4")
    with pytest.raises(LauncherError, match="nothing"):
        read_row(CSV.splitlines()[0], "asr", "draft", Load(concurrency=4))


def test_perf_analyzer_is_asked_for_one_load() -> None:
    words = arguments("asr", "host:1", Path("in.json"), load=Load(rate=2.5), requests=10, output=Path("out.csv"))
    assert "--request-rate-range=2.500" in words
    assert "--request-distribution=poisson" in words
    assert not any("concurrency" in word for word in words)


def test_windows_are_of_mixed_length_and_written_as_perf_analyzer_reads_them(tmp_path: Path) -> None:
    clips = load_clips(DEFAULT_MANIFEST, ["en"])
    windows = cut_windows(clips, 8, lambda audio, language: np.arange(3, dtype=np.int32))
    assert len({len(window.audio) for window in windows}) > 4
    write_inputs([*windows, Window(windows[0].audio, "en")], tmp_path / "in.json")
    data: list[dict[str, Any]] = json.loads((tmp_path / "in.json").read_text())["data"]
    assert data[0]["AUDIO"]["shape"] == [len(windows[0].audio)]
    assert data[0]["DRAFT"]["shape"] == [3]
    assert data[0]["LANGUAGE"] == ["en"]
    assert "DRAFT" not in data[-1]


def gateway_level(streams: int, delay: float) -> GatewayLevel:
    return GatewayLevel(
        streams=streams,
        frame_ms=20.0,
        core=0.5,
        memory_bytes=400_000,
        loop_delay={"p99_at_most": delay},
        partial_lag={"p95_at_most": 0.4},
        windows=100.0,
        late_p99=0.001,
        triton_core=0.2,
        client_core=0.2,
    )


def test_the_gateways_capacity_is_the_most_that_held() -> None:
    levels = [gateway_level(100, 0.02), gateway_level(200, 0.05), gateway_level(400, 0.1)]
    summary = summarize_gateway(levels, [20.0, 100.0])
    assert summary["capacity"] == {"20": 200, "100": 0}
    assert summary["levels"][1]["streams_per_core_by_cpu"] == 400


def test_a_gateway_that_fell_behind_tells_no_cost() -> None:
    made = gateway_level(100, 0.02)
    made.heard = 0.5
    assert made.by_cpu is None
    assert made.broken() == ["only 50% of the audio was taken"]


@pytest.mark.parametrize(
    ("delay", "late", "foreign", "limit"),
    [
        (0.02, 0.2, 0.3, ""),
        (0.1, 0.001, 0.01, "gateway"),
        (0.1, 0.001, 0.3, "others on the core"),
        (0.1, 0.2, 0.3, "clients"),
    ],
)
def test_a_level_that_breaks_names_its_limit(delay: float, late: float, foreign: float, limit: str) -> None:
    made = gateway_level(100, delay)
    made.late_p99, made.foreign = late, foreign
    assert made.limit() == made.to_json()["limit"] == limit


def test_the_use_of_a_core_is_read() -> None:
    ticks = os.sysconf("SC_CLK_TCK")
    statistics = "cpu  9 9 9 9 9 9 9 9 0 0\ncpu0 9 9 9 9 9 9 9 9 0 0\ncpu1 1 2 4 1000 1000 8 16 32 0 0\nintr 5\n"
    assert core_seconds(1, statistics) == 63 / ticks
    assert core_seconds(min(os.sched_getaffinity(0))) > 0


def test_counters_are_read() -> None:
    assert read_counter("# HELP a_total A.\na_total 12.5\na_total_created 3\n", "a_total") == 12.5
    assert read_counter("", "a_total") == 0


def comparison() -> dict[str, Any]:
    outcomes = []
    for system, cpu_s in (("starling", 1.0), ("moonshine-voice", 4.0), ("naive loop", 3.0)):
        clocks = Clocks(first_partial=[0.4], partial_lag=[0.3, 0.4], end_to_final=[])
        outcomes.append(Outcome(system, cpu_s, 10.0, clocks, errors=WordErrors(100, 5)))
    return summarize(outcomes, compare_parser().parse_args([]))


def test_comparison_gives_multiples() -> None:
    summary = comparison()
    assert summary["rows"][1]["ratios"]["core_per_stream"] == pytest.approx(4.0)
    assert "**4.0 x** (0.400)" in table(summary["rows"])
    assert len(summary["table"].splitlines()) == 2 + len(COLUMNS)


def test_report_and_pictures(tmp_path: Path) -> None:
    limits = {"partial_lag_p95": 0.5, "end_to_final_p95": 1.0}
    levels = [{**one.to_json(), "broken": one.broken(Limits())} for one in (level(1, 0.4), level(2, 0.6))]
    streams = {
        "machine": MACHINE,
        "speech": "continuous",
        "seconds": 10.0,
        "frame_ms": 20.0,
        "limits": limits,
        "capacity": 1,
        "levels": levels,
    }
    gateway = summarize_gateway([gateway_level(100, 0.02)], [20.0])
    row = read_row(CSV, "asr", "draft", Load(concurrency=4)).to_json()
    plain = {**row, "windows": "no draft", "throughput": 10.75}
    analyzer = {"rows": [row, plain], "table": "| a table |"}
    compared = comparison()
    report = write_report(
        MACHINE, {"compare": compared, "streams": streams, "gateway": gateway, "perf_analyzer": analyzer}
    )
    assert "**4.0 times** the CPU" in report
    assert "The most that held here: **1**." in report
    assert "- 2 streams: partial lag p95 600 ms" in report
    assert "| 100 | 20 ms | 50% | 200 | ≤ 20 ms | ≤ 400 ms |" in report
    assert "**2.0 times** the windows" in report
    assert "busy" not in report
    plot_levels(streams, tmp_path / "streams.png")
    plot_gateway(gateway["levels"], tmp_path / "gateway.png")
    plot_throughput([row, plain], tmp_path / "perf_analyzer.png")
    plot_comparison(compared["rows"], tmp_path / "compare.png")
    assert all(path.stat().st_size > 5000 for path in tmp_path.glob("*.png"))


def test_a_failed_part_and_a_busy_machine_are_told() -> None:
    report = write_report({**MACHINE, "load_average": 9.0}, {"gateway": None})
    assert "This part failed" in report
    assert "busy with other work" in report
