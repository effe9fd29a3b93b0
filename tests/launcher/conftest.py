"""A package index that misbehaves on request, small wheels, and a Triton with one small model."""

from __future__ import annotations

import hashlib
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from launcher.paths import Paths
from launcher.ports import PortLease, lease_port
from launcher.progress import Reporter
from launcher.repository import ModelPlan, assemble
from launcher.setup import Installation, set_up
from launcher.triton import TritonOptions, TritonProcess
from launcher.wheels import WheelPin

MODELS = Path(__file__).parent / "models"


@dataclass
class Index:
    """A package index on the loopback, as pip sees it.

    `cut` bytes of a wheel are sent before the connection ends (None: all of it); with `stall` it then hangs instead.
    """

    folder: Path
    url: str = ""
    cut: int | None = None
    stall: bool = False
    requests: list[str] = field(default_factory=list)
    stalled: threading.Event = field(default_factory=threading.Event)
    release: threading.Event = field(default_factory=threading.Event)

    def add(self, name: str, files: dict[str, bytes], version: str = "1.0.0") -> WheelPin:
        """Puts a wheel with these members into the index."""
        module = name.replace("-", "_")
        info = f"{module}-{version}.dist-info"
        path = self.folder / f"{module}-{version}-py3-none-any.whl"
        with zipfile.ZipFile(path, "w") as wheel:
            for member, data in files.items():
                wheel.writestr(member, data)
            wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
            wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            wheel.writestr(f"{info}/RECORD", "")
        data = path.read_bytes()
        return WheelPin(name, version, hashlib.sha256(data).hexdigest(), len(data))


def _handler(index: Index) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            index.requests.append(self.path)
            name = self.path.rstrip("/").rpartition("/")[2]
            if self.path.startswith("/files/"):
                self._send_wheel((index.folder / name).read_bytes())
                return
            wheels = [path.name for path in index.folder.glob(f"{name.replace('-', '_')}-*.whl")]
            links = "".join(f'<a href="/files/{wheel}">{wheel}</a>' for wheel in wheels)
            self._send(f"<html><body>{links}</body></html>".encode(), "text/html")

        def _send_wheel(self, data: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "application/octet-stream")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[: index.cut])
            self.wfile.flush()
            if index.stall:
                index.stalled.set()
                index.release.wait(60)

        def _send(self, data: bytes, kind: str) -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    return Handler


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    """The only index that pip knows during the test."""
    folder = tmp_path / "index"
    folder.mkdir()
    served = Index(folder)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(served))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    served.url = f"http://127.0.0.1:{server.server_port}/simple"
    for name in ("PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_NO_INDEX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_INDEX_URL", served.url)
    monkeypatch.setenv("PIP_RETRIES", "0")
    yield served
    served.release.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    """An empty cache, an empty state folder and an empty checkout."""
    return Paths(tmp_path / "cache", tmp_path / "state", tmp_path / "source")


@pytest.fixture(scope="session")
def installation() -> Installation:
    """What `make setup` made."""
    return set_up(Paths.from_environment(), Reporter(quiet=True))


MakeEcho = Callable[[], TritonProcess]


@pytest.fixture
def make_echo(installation: Installation, tmp_path: Path) -> Iterator[MakeEcho]:
    """A real Triton with the echo model, on ports of its own, not started."""
    made: list[TritonProcess] = []
    leases: list[PortLease] = []

    def make() -> TritonProcess:
        state = tmp_path / f"echo-{len(made)}"
        repository = assemble(MODELS, state / "repository", [ModelPlan("echo", tmp_path)])
        leases.extend(lease_port() for _ in range(3))
        http, grpc, metrics = (lease.port for lease in leases[-3:])
        options = TritonOptions(http, grpc, metrics, exit_timeout_s=2)
        made.append(TritonProcess(installation.triton, repository, state, installation.paths.source, options))
        return made[-1]

    yield make
    for process in made:
        process.stop()
    for lease in leases:
        lease.close()
