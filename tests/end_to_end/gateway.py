"""The gateway as a process of its own, as it runs in production, on a Triton that tests share."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from launcher.paths import SOURCE_ROOT
from launcher.ports import lease_port

READY_TIMEOUT_S = 60
STOP_TIMEOUT_S = 40
ANSWER_TIMEOUT_S = 30
POLL_S = 0.05


PATIENCE = {"STARLING_MAX_FINAL_DELAY_S": "600", "STARLING_PUNCTUATION_TIMEOUT_S": "30"}
"""A machine that is busy with other tests refuses no session and leaves no mark out, unless a test asks for it."""


class GatewayProcess:
    """`python -m server` on a free port. Settings are given as in the environment, without the prefix."""

    def __init__(self, folder: Path, triton_addresses: list[str], **settings: object) -> None:
        self.folder = folder
        self.environment: Mapping[str, str] = {}
        """Variables beyond the settings."""
        self._lease = lease_port()
        self.port = self._lease.port
        self._settings = settings
        self._addresses = triton_addresses
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Of the WebSocket."""
        return f"ws://127.0.0.1:{self.port}/stream"

    @property
    def log(self) -> str:
        """What it has printed so far."""
        path = self.folder / "gateway.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def setting(self, name: str, default: object) -> object:
        """What it was given for a setting."""
        return self._settings.get(name, default)

    @property
    def pid(self) -> int:
        """Of the running process."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> GatewayProcess:
        """Starts it and waits until it is ready."""
        self.folder.mkdir(parents=True, exist_ok=True)
        given = {f"STARLING_{name.upper()}": _text(value) for name, value in self._settings.items()}
        kept = {name: value for name, value in os.environ.items() if not name.startswith("STARLING_")}
        cache = {name: value for name, value in os.environ.items() if name == "STARLING_CACHE_DIR"}
        environment = {
            **kept,
            **cache,
            **PATIENCE,
            "STARLING_STATE_DIR": str(self.folder / "state"),
            "STARLING_PORT": str(self.port),
            "STARLING_TRITON_ADDRESSES": json.dumps(self._addresses),
            "STARLING_LOG_FORMAT": "json",
            "PYTHONPATH": str(SOURCE_ROOT),
            **self.environment,
            **given,
        }
        with (self.folder / "gateway.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "server"], env=environment, stdout=log, stderr=log, cwd=self.folder
            )
        self._wait_ready()
        return self

    def get(self, path: str, headers: dict[str, str] | None = None) -> tuple[int, dict[str, str], bytes]:
        """Status, headers in lower case and body of a plain HTTP request."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=ANSWER_TIMEOUT_S)
        try:
            connection.request("GET", path, headers=headers or {})
            response = connection.getresponse()
            return response.status, {k.lower(): v for k, v in response.getheaders()}, response.read()
        finally:
            connection.close()

    def metric(self, name: str) -> float:
        """The value of one metric, labels included in its name; 0 if it is not there."""
        for line in self.get("/metrics")[2].decode().splitlines():
            if line.startswith(f"{name} "):
                return float(line.rpartition(" ")[2])
        return 0.0

    def wait_metric(self, name: str, value: float, timeout_s: float = 60) -> None:
        """Waits until a metric has a value; for other processes there is no event to wait for."""
        deadline = time.monotonic() + timeout_s
        while self.metric(name) != value:
            assert time.monotonic() < deadline, f"{name} is {self.metric(name)}, not {value}, after {timeout_s} s"
            time.sleep(POLL_S)

    def kill(self) -> None:
        """SIGKILL: nothing is saved, nobody is told."""
        self._signal(signal.SIGKILL)
        self.wait_exit()

    def terminate(self) -> int:
        """SIGTERM and wait; the exit status."""
        self._signal(signal.SIGTERM)
        return self.wait_exit()

    def wait_exit(self) -> int:
        """Waits until it has ended; the exit status."""
        assert self._process is not None
        return self._process.wait(STOP_TIMEOUT_S)

    def send_signal(self, number: signal.Signals) -> None:
        """Any signal, without waiting."""
        self._signal(number)

    def close(self) -> None:
        """Ends it for certain and gives the port back."""
        if self._process is not None and self._process.poll() is None:
            self._signal(signal.SIGCONT)
            self._signal(signal.SIGTERM)
            try:
                self._process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._lease.close()

    def _wait_ready(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + READY_TIMEOUT_S
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise AssertionError(f"the gateway ended with {self._process.returncode}:\n{self.log}")
            try:
                if self.get("/readyz")[0] == 200:
                    return
            except OSError:
                pass
            time.sleep(POLL_S)
        raise AssertionError(f"the gateway was not ready after {READY_TIMEOUT_S} s:\n{self.log}")

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)


MakeGateway = Callable[..., GatewayProcess]
"""`make_gateway(folder="", triton_addresses=None, environment=None, **settings)`: one of the test's own, ready."""


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
