"""Requests that are cancelled while they wait for the model, behind the real Triton."""

from __future__ import annotations

import os
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as grpc_client
from prometheus_client.parser import text_string_to_metric_families
from tritonclient.utils import InferenceServerException

from launcher.ports import lease_port
from launcher.repository import ModelPlan, assemble_stand_in
from launcher.setup import Installation
from launcher.triton import TritonOptions, TritonProcess
from tests.triton_models.tensors import speech_inputs

pytestmark = pytest.mark.triton

TIMEOUT_S = 60.0
WINDOW = np.zeros(16000, np.int16)


@pytest.fixture
def pipes(tmp_path: Path) -> Path:
    folder = tmp_path / "pipes"
    folder.mkdir()
    for name in ("begun", "go"):
        os.mkfifo(folder / name)
    return folder


@pytest.fixture
def held_triton(installation: Installation, tmp_path: Path, pipes: Path) -> Iterator[TritonProcess]:
    """A Triton whose one model waits for the test."""
    source = installation.paths.source
    program = Path(__file__).with_name("held_model.py")
    plan = ModelPlan("asr", pipes)
    repository = assemble_stand_in(source / "triton_models", tmp_path / "repository", plan, program)
    leases = [lease_port() for _ in range(3)]
    http, grpc, metrics = (lease.port for lease in leases)
    options = TritonOptions(http, grpc, metrics, exit_timeout_s=2)
    process = TritonProcess(installation.triton, repository, tmp_path / "state", source, options)
    try:
        process.start_ready()
        yield process
    finally:
        process.stop()
        for lease in leases:
            lease.close()


def _wait_for_queue(triton: TritonProcess, count: int) -> None:
    """Until so many requests wait in Triton, which tells nobody: it can only be asked."""
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        with urllib.request.urlopen(triton.options.metrics_url, timeout=10) as answer:
            families = {family.name: family for family in text_string_to_metric_families(answer.read().decode())}
        waiting = sum(sample.value for sample in families["nv_inference_pending_request_count"].samples)
        if waiting == count:
            return
        assert time.monotonic() < deadline, f"{waiting} requests wait, not {count}"
        time.sleep(0.02)


def test_cancelled_requests_cost_no_work(held_triton: TritonProcess, pipes: Path) -> None:
    with grpc_client.InferenceServerClient(held_triton.options.grpc_url) as client:

        def send(language: str) -> tuple[Future[str], grpc_client.CallContext]:
            answered: Future[str] = Future()

            def note(result: grpc_client.InferResult | None, error: InferenceServerException | None) -> None:
                if result is None:
                    answered.set_exception(error)
                else:
                    answered.set_result(result.as_numpy("TEXT")[0, 0].decode())

            call = client.async_infer("asr", speech_inputs(WINDOW, language), note, client_timeout=TIMEOUT_S)
            return answered, call

        first, _ = send("held")
        (pipes / "begun").read_text()
        calls = [send("en") for _ in range(40)]
        _wait_for_queue(held_triton, 40)
        for answered, call in calls:
            call.cancel()
            assert isinstance(answered.exception(TIMEOUT_S), InferenceServerException)
        # Sent behind the cancellations, on the same connection: when this one waits, they have arrived.
        last, _ = send("en")
        _wait_for_queue(held_triton, 41)
        (pipes / "go").write_text("")

        assert first.result(TIMEOUT_S) == "0"
        assert last.result(TIMEOUT_S) == "1"
