from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from launcher.doctor import (
    Check,
    apt_line,
    check_gateway,
    check_triton,
    check_triton_environment,
    check_weights,
    print_checks,
    report_left_out,
    run_checks,
)
from launcher.paths import Paths
from launcher.ports import lease_port
from launcher.setup import Installation
from launcher.triton import TritonOptions
from launcher.weight_pins import SILERO_VAD


@contextmanager
def _server(answers: dict[str, int]) -> Iterator[int]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(answers.get(self.path, 404))
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_machine_that_is_set_up_has_no_complaint(installation: Installation) -> None:
    with lease_port() as gateway, lease_port() as http, lease_port() as grpc, lease_port() as metrics:
        options = TritonOptions(http.port, grpc.port, metrics.port)
        checks = run_checks(installation.paths, triton=options, gateway_port=gateway.port)

    assert [check for check in checks if not check.ok and not check.optional] == []
    assert {"python", "system", "disk (cache)", "triton environment", "weights (whisper-base)", "gateway"} <= {
        check.name for check in checks
    }


def test_an_empty_cache_says_what_to_run(paths: Paths, installation: Installation) -> None:
    empty = replace(paths, source=installation.paths.source)

    assert check_triton_environment(empty).remedy == "run `make setup`"
    assert check_weights(SILERO_VAD, empty) == Check(
        "weights (silero-vad)", False, f"not in {empty.models / 'silero-vad'}", "run `make setup`"
    )


def test_a_damaged_weight_is_named(paths: Paths, installation: Installation) -> None:
    source, copy = SILERO_VAD.folder(installation.paths), SILERO_VAD.folder(paths)
    copy.mkdir(parents=True)
    for path in source.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    assert check_weights(SILERO_VAD, paths).ok

    data = bytearray((copy / "silero_vad.onnx").read_bytes())
    data[1000] ^= 1
    (copy / "silero_vad.onnx").write_bytes(data)

    found = check_weights(SILERO_VAD, paths)
    assert not found.ok
    assert found.detail == "damaged: silero_vad.onnx"


@pytest.mark.parametrize(
    ("answers", "ok", "words"),
    [
        ({"/healthz": 200, "/readyz": 200}, True, "ready on"),
        ({"/healthz": 200, "/readyz": 503}, False, "not ready"),
        ({}, False, "answers 404"),
    ],
)
def test_the_gateway_is_asked(answers: dict[str, int], ok: bool, words: str) -> None:
    with _server(answers) as port:
        found = check_gateway("127.0.0.1", port)
    assert found.ok is ok
    assert words in found.detail


def test_a_gateway_that_does_not_run_is_no_failure() -> None:
    with lease_port() as lease:
        found = check_gateway("127.0.0.1", lease.port)
    assert not found.ok
    assert found.optional
    assert found.remedy == "start it with `make serve`"


def test_triton_is_asked() -> None:
    with _server({"/v2/health/ready": 200}) as port:
        assert check_triton(TritonOptions(http_port=port)).ok
    with _server({"/v2/health/ready": 400}) as port:
        assert "answers 400" in check_triton(TritonOptions(http_port=port)).detail


def test_taken_triton_ports_are_named_with_their_settings() -> None:
    with _server({}) as taken, lease_port() as http, lease_port() as metrics:
        found = check_triton(TritonOptions(http.port, taken, metrics.port))
    assert found.detail == f"ports in use: {taken}"
    assert found.remedy == "free them, or set STARLING_TRITON_GRPC_PORT"


def test_printing_says_what_to_do_and_optional_findings_do_not_fail() -> None:
    lines: list[str] = []
    assert print_checks([Check("a", True, "fine"), Check("b", False, "off", "start it", True)], lines.append)
    assert not print_checks([Check("c", False, "bad", "mend it")], lines.append)
    assert lines == ["ok   a: fine\n", "-    b: off -> start it\n", "FAIL c: bad -> mend it\n"]


def test_programs_that_tests_lack_come_with_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("launcher.doctor.find_program", lambda name: None if name in {"haproxy", "mariadbd"} else "/x")

    assert report_left_out() == ["mariadbd", "haproxy"]
    assert "apt-get install -y --no-install-recommends mariadb-server haproxy" in capsys.readouterr().out
    assert apt_line(["redis-server"]) == "apt-get install -y --no-install-recommends redis-server"
