"""The whole server for a benchmark: Triton and one gateway as processes of their own, and what they use."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from launcher.errors import LauncherError
from launcher.paths import SOURCE_ROOT, Paths
from launcher.plans import plans_from_environment
from launcher.ports import PortLease, lease_port
from launcher.processes import Usage, descendants, usage
from launcher.progress import Reporter
from launcher.setup import Installation, set_up
from launcher.triton import TritonOptions, TritonProcess

READY_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 20.0
POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class ModelCounts:
    """Triton's own counters of one model since its start, over all its instances.

    Attributes:
        inferences: requests that the model was given; Triton 2.51 counts those in, too, that it skipped as cancelled.
        executions: batches computed.
        failures: requests that failed, or were cancelled before the model was given them.
        compute_s: time spent computing, one batch after another.
        queue_s: time that requests waited for an instance, added up.
    """

    inferences: int = 0
    executions: int = 0
    failures: int = 0
    compute_s: float = 0.0
    queue_s: float = 0.0

    def since(self, before: ModelCounts) -> ModelCounts:
        """What has been added."""
        return ModelCounts(
            self.inferences - before.inferences,
            self.executions - before.executions,
            self.failures - before.failures,
            self.compute_s - before.compute_s,
            self.queue_s - before.queue_s,
        )

    @property
    def mean_batch(self) -> float | None:
        """Requests a batch; None without any."""
        return self.inferences / self.executions if self.executions else None


@dataclass(slots=True)
class GatewayProcess:
    """`python -m server` on a port of its own.

    Attributes:
        folder: for its state and its log.
        addresses: gRPC addresses of its Tritons.
        settings: by their names in the environment, without the prefix.
        cores: the cores it may run on; all when None.
    """

    folder: Path
    addresses: Sequence[str]
    settings: Mapping[str, object]
    cores: frozenset[int] | None = None
    _lease: PortLease | None = None
    _process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Of the WebSocket."""
        assert self._lease is not None
        return f"ws://127.0.0.1:{self._lease.port}/stream"

    @property
    def pid(self) -> int:
        """Of the process."""
        assert self._process is not None
        return self._process.pid

    @property
    def log(self) -> Path:
        """What it prints."""
        return self.folder / "gateway.log"

    def start(self) -> None:
        """Starts it and waits until it is ready.

        Raises:
            LauncherError: it ended or did not get ready, with where its log is.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lease = lease_port()
        given = {f"STARLING_{name.upper()}": _text(value) for name, value in self.settings.items()}
        environment = {
            **os.environ,
            "STARLING_STATE_DIR": str(self.folder / "state"),
            "STARLING_PORT": str(self._lease.port),
            "STARLING_TRITON_ADDRESSES": json.dumps(list(self.addresses)),
            "STARLING_LOG_FORMAT": "json",
            "PYTHONPATH": str(SOURCE_ROOT),
            **given,
        }
        with self.log.open("ab") as log, on_cores(self.cores):
            self._process = subprocess.Popen(
                [sys.executable, "-m", "server"], env=environment, stdout=log, stderr=log, cwd=self.folder
            )
        self._wait_ready()

    def stop(self) -> None:
        """Ends it for certain."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        if self._lease is not None:
            self._lease.close()

    def usage(self) -> Usage:
        """What the process and those under it use."""
        return usage([self.pid, *(process.pid for process in descendants(self.pid))])

    def _wait_ready(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + READY_TIMEOUT_S
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise LauncherError(f"the gateway ended with {self._process.returncode}", f"look into {self.log}")
            if is_ready(self.url):
                return
            time.sleep(POLL_S)
        raise LauncherError(f"the gateway was not ready within {READY_TIMEOUT_S:.0f} s", f"look into {self.log}")


@dataclass(frozen=True, slots=True)
class Stack:
    """A server to be measured; what is not known of it is None.

    Attributes:
        url: of its `/stream`.
        triton_url: base of Triton's HTTP API.
        gateway_usage: what the gateway's processes use at the moment.
        triton_usage: what Triton's processes use at the moment.
    """

    url: str
    triton_url: str | None = None
    gateway_usage: Callable[[], Usage] | None = None
    triton_usage: Callable[[], Usage] | None = None

    def metrics(self) -> str:
        """The gateway's `/metrics`; empty where it cannot be had."""
        parts = urlsplit(self.url)
        try:
            with urllib.request.urlopen(f"http://{parts.netloc}/metrics", timeout=10) as answer:
                return str(answer.read().decode())
        except OSError:
            return ""

    def model_counts(self) -> dict[str, ModelCounts]:
        """Triton's counters by model; empty where they cannot be had."""
        if self.triton_url is None:
            return {}
        try:
            with urllib.request.urlopen(f"{self.triton_url}/v2/models/stats", timeout=10) as answer:
                return read_model_counts(json.load(answer))
        except OSError:
            return {}


def read_model_counts(statistics: Mapping[str, object]) -> dict[str, ModelCounts]:
    """The counters in an answer of Triton's statistics API."""
    counts = {}
    models = statistics.get("model_stats", [])
    assert isinstance(models, list)
    for model in models:
        times = model["inference_stats"]
        counts[str(model["name"])] = ModelCounts(
            int(model["inference_count"]),
            int(model["execution_count"]),
            int(times["fail"].get("count", 0)),
            # A batch's time is counted for each of its requests: by batches it stands in batch_stats.
            sum(int(batch["compute_infer"].get("ns", 0)) for batch in model.get("batch_stats", [])) / 1e9,
            int(times["queue"].get("ns", 0)) / 1e9,
        )
    return counts


@contextmanager
def running_triton(
    folder: Path, reporter: Reporter, models: Sequence[str] | None = None
) -> Iterator[tuple[TritonProcess, Installation]]:
    """A Triton with these models (all when None) on free ports, ready."""
    paths = replace(Paths.from_environment(), state=folder)
    installation = set_up(paths, reporter)
    plans = [plan for plan in plans_from_environment(paths, "cpu") if models is None or plan.name in models]
    with ExitStack() as stack:
        process = installation.triton_process(triton_options(stack), plans)
        stack.callback(process.stop)
        process.start_ready()
        yield process, installation


def triton_options(stack: ExitStack) -> TritonOptions:
    """Options with ports that are kept until the stack is closed."""
    http_port, grpc_port, metrics_port = (stack.enter_context(lease_port()).port for _ in range(3))
    return TritonOptions(http_port=http_port, grpc_port=grpc_port, metrics_port=metrics_port)


@contextmanager
def running_stack(
    reporter: Reporter, triton_models: Sequence[str] | None = None, **settings: object
) -> Iterator[Stack]:
    """The whole server with its state in a temporary folder; `settings` as in the environment, in lower case.

    Raises:
        LauncherError: something did not start.
    """
    with tempfile.TemporaryDirectory(prefix="starling-perf-") as name:
        folder = Path(name)
        reporter.step("starting Triton")
        with running_triton(folder / "triton", reporter, triton_models) as (triton, _):
            settings = {"max_sessions": 1000, **settings}
            gateway = GatewayProcess(folder / "gateway", [triton.options.grpc_url], settings)
            reporter.step("starting the gateway")
            try:
                gateway.start()
                yield Stack(gateway.url, triton.options.http_url, gateway.usage, triton.usage)
            except LauncherError:
                reporter.say(_tail(gateway.log))
                raise
            finally:
                gateway.stop()


@contextmanager
def on_cores(cores: frozenset[int] | None) -> Iterator[None]:
    """What is started within runs on these cores only, and so do its children."""
    if cores is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def is_ready(url: str) -> bool:
    """Whether the gateway says that a real inference went through lately."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=5)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _tail(log: Path, lines: int = 20) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:]) if log.exists() else ""


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
