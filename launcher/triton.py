"""One Triton server as a process: start, readiness, stop, and the handles that fault tests need."""

from __future__ import annotations

import http.client
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from launcher.errors import LauncherError
from launcher.ports import check_free
from launcher.processes import ProcessInfo, Usage, descendants, read_process, usage
from launcher.triton_env import STUB, TritonEnvironment, make_stub_python

READY_POLL_S = 0.05
PROBE_TIMEOUT_S = 2.0
GUARD_START_S = 20.0
STOP_SLACK_S = 3.0


@dataclass(frozen=True, slots=True)
class TritonOptions:
    """Where and how one Triton runs.

    Attributes:
        http_port: Triton's HTTP port; here used for readiness.
        grpc_port: what the gateway talks to.
        metrics_port: Prometheus metrics.
        host: the address of all three.
        gpu: whether the models may use one.
        ready_timeout_s: from start until every model has loaded and warmed up.
        exit_timeout_s: how long requests in flight may take when Triton is asked to stop.
        log_bytes: when the log file is put aside; three older ones are kept.
    """

    http_port: int = 8003
    grpc_port: int = 8001
    metrics_port: int = 8002
    host: str = "127.0.0.1"
    gpu: bool = False
    ready_timeout_s: float = 180.0
    exit_timeout_s: int = 5
    log_bytes: int = 10_000_000

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> TritonOptions:
        """The ports that `STARLING_TRITON_{HTTP,GRPC,METRICS}_PORT` name; the defaults for the rest.

        Raises:
            LauncherError: one of them is not a port number.
        """
        env = os.environ if environment is None else environment
        default = cls()
        return cls(
            http_port=_port(env, "STARLING_TRITON_HTTP_PORT", default.http_port),
            grpc_port=_port(env, "STARLING_TRITON_GRPC_PORT", default.grpc_port),
            metrics_port=_port(env, "STARLING_TRITON_METRICS_PORT", default.metrics_port),
        )

    @property
    def grpc_url(self) -> str:
        """For `tritonclient.grpc`."""
        return f"{self.host}:{self.grpc_port}"

    @property
    def metrics_url(self) -> str:
        """Where Prometheus finds Triton's metrics."""
        return f"http://{self.host}:{self.metrics_port}/metrics"

    @property
    def http_url(self) -> str:
        """Base of Triton's HTTP API."""
        return f"http://{self.host}:{self.http_port}"


@dataclass(slots=True)
class TritonProcess:
    """A Triton server under a guard: when this process ends, for whatever reason, so does Triton.

    Its methods block; `launcher.supervisor` is the asyncio side.

    Attributes:
        environment: Triton's Python environment.
        repository: an assembled model repository.
        state: a folder of this Triton's own, for its log and its stubs' Python.
        source: the checkout whose `engines` the models import.
        options: ports and limits.
    """

    environment: TritonEnvironment
    repository: Path
    state: Path
    source: Path
    options: TritonOptions = field(default_factory=TritonOptions)
    _guard: subprocess.Popen[bytes] | None = None
    _pid: int = 0
    _log_start: int = 0

    @property
    def log(self) -> Path:
        """What Triton and its models print; rotated."""
        return self.state / "logs" / "triton.log"

    @property
    def pid(self) -> int:
        """Of `tritonserver`; 0 before the start. The number stays after the process is gone."""
        return self._pid

    @property
    def guard_pid(self) -> int:
        """Of the guard, which ends when and only when all of Triton has ended; 0 before the start."""
        return self._guard.pid if self._guard else 0

    @property
    def running(self) -> bool:
        """Whether the server process lives, ready or not."""
        return self._guard is not None and self._guard.poll() is None

    def start(self) -> None:
        """Starts the server and returns at once; `wait_ready` waits for its models.

        Raises:
            LauncherError: a port is taken, or the program cannot start.
        """
        if self.running:
            raise RuntimeError("this Triton runs already")
        self._check_ports()
        python = make_stub_python(self.environment, self.state / "triton-python", self.source)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self._log_start = self.log.stat().st_size if self.log.exists() else 0
        self._guard = subprocess.Popen(
            self._guard_command(),
            cwd=self.source,
            env=self.environment.process_environment(python),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        self._pid = self._read_pid(self._guard)

    @property
    def crashed(self) -> bool:
        """Whether the server ended by a signal, its own abort included, and not by a decision."""
        return self._guard is not None and (self._guard.poll() or 0) >= 128

    def start_ready(self) -> None:
        """Starts the server and waits for its models; one that crashes while it starts is started once more.

        Triton 2.51 aborts at start now and then, on a busy machine, in the shared memory between it and a stub.

        Raises:
            LauncherError: as `start` and `wait_ready`.
        """
        self.start()
        try:
            self.wait_ready()
        except LauncherError:
            if not self.crashed:
                raise
            self.stop()
            self.start()
            self.wait_ready()

    def is_ready(self) -> bool:
        """Whether Triton says that it and all its models are ready.

        It goes on saying so when the stub of a model has died: only a real inference shows that.
        """
        connection = http.client.HTTPConnection(self.options.host, self.options.http_port, timeout=PROBE_TIMEOUT_S)
        try:
            connection.request("GET", "/v2/health/ready")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def wait_ready(self, timeout_s: float | None = None) -> None:
        """Waits until every model is loaded.

        Raises:
            LauncherError: Triton ended, or the time (`options.ready_timeout_s` when None) is up; with the reason
                that its log gives.
        """
        limit = self.options.ready_timeout_s if timeout_s is None else timeout_s
        deadline = time.monotonic() + limit
        while not self.is_ready():
            self.check_alive()
            if time.monotonic() >= deadline:
                raise LauncherError(f"Triton was not ready within {limit:.0f} s", self.explain())
            # Triton has no event for readiness.
            time.sleep(READY_POLL_S)

    def check_alive(self) -> None:
        """Does nothing while the server runs.

        Raises:
            LauncherError: it has ended; with the reason that its log gives.
        """
        if not self.running:
            raise LauncherError("Triton ended", self.explain())

    def stop(self) -> None:
        """Lets requests in flight finish, ends the server and its stubs, and waits until all are gone."""
        if self._guard is None:
            return
        with suppress(ProcessLookupError):
            self._guard.terminate()
        limit = self.options.exit_timeout_s + 2 * STOP_SLACK_S
        try:
            self._guard.wait(limit + STOP_SLACK_S)
        except subprocess.TimeoutExpired:
            # The kernel then ends the server too; its stubs notice by themselves.
            self._guard.kill()
            self._guard.wait()
        finally:
            if self._guard.stdout is not None:
                self._guard.stdout.close()
        self._guard = None

    def wait_exit(self, timeout_s: float | None = None) -> bool:
        """Waits until the server and all its stubs are gone; False when the time is up."""
        if self._guard is None:
            return True
        try:
            self._guard.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def kill(self) -> None:
        """SIGKILL for the server, as a fault; the guard then ends its stubs."""
        self._signal(signal.SIGKILL)

    def pause(self) -> None:
        """SIGSTOP for the server and its stubs: it hangs, its ports accept connections and nothing answers."""
        self._signal(signal.SIGSTOP)
        for stub in self.stubs():
            os.kill(stub.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Undoes `pause`."""
        for stub in self.stubs():
            os.kill(stub.pid, signal.SIGCONT)
        self._signal(signal.SIGCONT)

    def stubs(self, model: str | None = None) -> list[ProcessInfo]:
        """The living stub processes, of one model or of all."""
        part = "/1/model.py" if model is None else f"/{model}/1/model.py"
        return [
            process
            for process in (descendants(self.guard_pid) if self.running else [])
            if process.state != "Z"
            and process.command
            and process.command[0].endswith(STUB)
            and any(argument.endswith(part) for argument in process.command)
        ]

    def kill_stub(self, model: str, count: int | None = None) -> int:
        """SIGKILL for so many stubs of a model, all when None, as a fault; returns how many it got.

        Triton does not notice: it stays ready and fails that model's requests until the model is unloaded and loaded.
        """
        stubs = self.stubs(model)[:count]
        for stub in stubs:
            with suppress(ProcessLookupError):
                os.kill(stub.pid, signal.SIGKILL)
        return len(stubs)

    def usage(self) -> Usage:
        """What the server and its stubs use now, the guard not counted."""
        return usage([process.pid for process in descendants(self.guard_pid)] if self.running else [])

    def explain(self) -> str:
        """The line of the log since the last start that best says why Triton does not run, and where the log is."""
        return f"{_reason(self._log_text())} (log: {self.log})"

    def _log_text(self) -> str:
        try:
            with self.log.open("rb") as file:
                file.seek(min(self._log_start, self.log.stat().st_size))
                return file.read().decode(errors="replace")
        except OSError:
            return ""

    def _signal(self, number: signal.Signals) -> None:
        if not self.running or (process := read_process(self._pid)) is None or process.parent != self.guard_pid:
            raise LauncherError("Triton does not run", "start it first")
        os.kill(self._pid, number)

    def _check_ports(self) -> None:
        options = self.options
        for port, what, setting in (
            (options.grpc_port, "Triton's gRPC", "STARLING_TRITON_GRPC_PORT"),
            (options.http_port, "Triton's HTTP", "STARLING_TRITON_HTTP_PORT"),
            (options.metrics_port, "Triton's metrics", "STARLING_TRITON_METRICS_PORT"),
        ):
            check_free(port, what, setting, options.host)

    def _guard_command(self) -> list[str]:
        options = self.options
        prefix = f"starling_{os.getpid()}_{options.grpc_port}_"
        stop_timeout = options.exit_timeout_s + STOP_SLACK_S
        # -S: the guard needs no site-packages, and without them it is small.
        guard = [sys.executable, "-S", "-m", "launcher.guard", "--parent", str(os.getpid()), "--log", str(self.log)]
        guard += ["--log-bytes", str(options.log_bytes), "--stop-timeout", str(stop_timeout), "--shm-prefix", prefix]
        return [*guard, "--", *self._server_command(prefix)]

    def _server_command(self, shm_prefix: str) -> list[str]:
        options = self.options
        flags = {
            "model-repository": self.repository,
            "backend-directory": self.environment.backends,
            "cache-directory": self.environment.caches,
            # Explicit control is what lets a model with a dead stub be unloaded and loaded.
            "model-control-mode": "explicit",
            "load-model": "*",
            "http-address": options.host,
            "http-port": options.http_port,
            "grpc-address": options.host,
            "grpc-port": options.grpc_port,
            "metrics-address": options.host,
            "metrics-port": options.metrics_port,
            "exit-timeout-secs": options.exit_timeout_s,
            "backend-config": f"python,shm-region-prefix-name={shm_prefix}",
        }
        if not options.gpu:
            flags |= {"allow-gpu-metrics": "false", "pinned-memory-pool-byte-size": 0}
        # The configurations are complete; completing them would start every stub twice.
        arguments = ["--disable-auto-complete-config", *(f"--{name}={value}" for name, value in flags.items())]
        return [str(self.environment.server), *arguments]

    def _read_pid(self, guard: subprocess.Popen[bytes]) -> int:
        assert guard.stdout is not None
        # A guard that hangs before its first line must not hang its parent.
        alarm = threading.Timer(GUARD_START_S, guard.kill)
        alarm.start()
        try:
            line = guard.stdout.readline()
        finally:
            alarm.cancel()
        if not line.strip().isdigit():
            guard.kill()
            guard.wait()
            raise LauncherError("Triton's guard did not start", f"look into {self.log}")
        return int(line)


_REASONS = (
    r"Address already in use|failed to start .* at",
    r"Poll failed for model",
    r"failed to load '",
    r"UNAVAILABLE|Internal:",
    r"^E\d{4} (?!.*CudaDriverHelper)",
)
"""Patterns of the lines that say why Triton ended, the most particular first."""


def _reason(log: str) -> str:
    lines = log.splitlines()
    for pattern in _REASONS:
        found = next((line for line in lines if re.search(pattern, line)), None)
        if found is not None:
            return re.sub(r"^[EWI]\d{4} \S+ \d+ \S+\] ", "", found).strip().strip('"')[:400]
    return next((line.strip()[:400] for line in reversed(lines) if line.strip()), "it printed nothing")


def _port(env: Mapping[str, str], setting: str, default: int) -> int:
    text = env.get(setting) or str(default)
    if not (text.isdecimal() and 0 < int(text) < 65536):
        raise LauncherError(f"{setting}={text} is not a port", "give a number from 1 to 65535")
    return int(text)
