"""Alerts, dashboard and chart name metrics that exist."""

from __future__ import annotations

import json
import re
import subprocess
from typing import Any

import pytest
import yaml
from prometheus_client import generate_latest

from launcher.paths import SOURCE_ROOT
from server.metrics import Metrics
from tests.servers.process import find_program

DEPLOY = SOURCE_ROOT / "deploy"
PROCESS = {"process_open_fds", "process_resident_memory_bytes", "process_cpu_seconds_total"}
"""Of every process that runs on Linux."""

TRITON = {
    "nv_inference_count",
    "nv_inference_exec_count",
    "nv_inference_request_success",
    "nv_inference_request_failure",
    "nv_inference_queue_duration_us",
    "nv_inference_compute_infer_duration_us",
    "nv_inference_pending_request_count",
    "nv_gpu_utilization",
    "nv_gpu_memory_used_bytes",
    "nv_gpu_memory_total_bytes",
}
"""Of Triton 2.51, as far as they are used here."""

OTHERS = {"up", "haproxy_server_status"}


def exposed() -> set[str]:
    """The names of all time series of a gateway."""
    names = set()
    for line in generate_latest(Metrics().registry).decode().splitlines():
        if line.startswith("# TYPE"):
            name, kind = line.split()[2:4]
            names |= {f"{name}{end}" for end in ("_bucket", "_count", "_sum")} if kind == "histogram" else {name}
    return names


def alerts() -> list[dict[str, Any]]:
    parsed = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())
    return [rule for group in parsed["groups"] for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    board = json.loads((DEPLOY / "grafana" / "dashboards" / "starling.json").read_text())
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def named_in(expression: str) -> set[str]:
    """The metrics of a query: words that are followed by a selector or nothing, less labels and functions."""
    plain = re.sub(r"\{[^}]*\}|\[[^]]*\]|\b(by|without) \([^)]*\)|\"[^\"]*\"", " ", expression)
    return {word for word in re.findall(r"[a-z_][a-z0-9_]*(?!\s*\()\b", plain) if "_" in word or word == "up"}


async def test_every_metric_that_is_named_exists() -> None:
    known = exposed() | TRITON | OTHERS | PROCESS
    expressions = [rule["expr"] for rule in alerts()]
    expressions += [target["expr"] for panel in panels() for target in panel["targets"]]
    assert len(expressions) > 40
    for expression in expressions:
        named = named_in(expression) - {"histogram_quantile"}
        assert named, expression
        assert named <= known, (expression, named - known)


async def test_every_metric_of_a_gateway_is_shown_somewhere() -> None:
    expressions = [target["expr"] for panel in panels() for target in panel["targets"]]
    shown = set().union(*(named_in(expression) for expression in expressions))
    families = {re.sub(r"_(bucket|count|sum|created)$", "", name) for name in exposed() if name.startswith("starling_")}
    not_shown = {name for name in families if not any(name in word for word in shown)}
    # The number of frames is for comparing with seconds of audio when a client is debugged.
    assert not_shown <= {"starling_audio_frames_total", "starling_audio_frames"}


def test_every_alert_has_its_runbook() -> None:
    manual = (SOURCE_ROOT / "docs" / "operations.md").read_text()
    for rule in alerts():
        name = rule["alert"]
        assert rule["labels"]["severity"] in {"page", "ticket"}
        assert rule["annotations"]["runbook"] == f"docs/operations.md#{name.lower()}"
        section = manual.partition(f"### {name}\n")[2].partition("\n###")[0]
        assert "**Do**" in section or "Report it" in section, name
        assert section.startswith(f"*{rule['labels']['severity'].capitalize()}"), name


def test_panels_do_not_overlap() -> None:
    places = [panel["gridPos"] for panel in panels()]
    for index, one in enumerate(places):
        assert one["x"] + one["w"] <= 24
        for other in places[:index]:
            apart_x = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
            apart_y = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
            assert apart_x or apart_y


@pytest.mark.parametrize("command", [["check", "config", "prometheus.yml"], ["test", "rules", "alerts_test.yml"]])
def test_prometheus_takes_the_rules(command: list[str]) -> None:
    promtool = find_program("promtool", "prometheus")
    done = subprocess.run([promtool, *command], cwd=DEPLOY / "prometheus", capture_output=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
