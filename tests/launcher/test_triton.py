"""The real tritonserver as a process: its life, its deaths, and what is left of it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
from tritonclient.utils import InferenceServerException

from launcher.errors import LauncherError
from launcher.processes import descendants, read_process
from launcher.setup import Installation
from launcher.supervisor import RestartPolicy, TritonState, TritonSupervisor
from launcher.triton import TritonOptions, TritonProcess
from tests.launcher.conftest import MakeEcho
from tests.launcher.test_guard import _wait_gone

pytestmark = pytest.mark.triton
DEADLINE_S = 120.0

PARENT = """
import sys
from pathlib import Path
from launcher.paths import SOURCE_ROOT
from launcher.triton import TritonOptions, TritonProcess
from launcher.triton_env import TritonEnvironment
root, version, libraries, repository, state, *ports = sys.argv[1:]
folders = tuple(Path(folder) for folder in libraries.split(":") if folder)
process = TritonProcess(TritonEnvironment(Path(root), version, folders), Path(repository), Path(state), SOURCE_ROOT,
                        TritonOptions(*map(int, ports)))
process.start()
process.wait_ready()
print(process.guard_pid, flush=True)
sys.stdin.read()
"""


def _say(process: TritonProcess, text: str, timeout_s: float = DEADLINE_S) -> str:
    with triton_grpc.InferenceServerClient(process.options.grpc_url) as client:
        given = triton_grpc.InferInput("TEXT", [1, 1], "BYTES")
        given.set_data_from_numpy(np.array([[text.encode()]], np.object_))
        answer = client.infer("echo", [given], client_timeout=timeout_s)
        return bytes(answer.as_numpy("TEXT")[0, 0]).decode()


def _shared_memory(process: TritonProcess) -> list[Path]:
    return list(Path("/dev/shm").glob(f"starling_{os.getpid()}_{process.options.grpc_port}_*"))


def test_start_infer_stop(make_echo: MakeEcho) -> None:
    process = make_echo()
    process.start()
    process.wait_ready(DEADLINE_S)
    assert _say(process, "hello") == "hello"

    used = process.usage()
    assert used.processes == 2, "the server and one stub"
    assert used.cpu_seconds > 0
    assert used.resident_bytes > 30_000_000
    (stub,) = process.stubs("echo")
    below = [found.pid for found in descendants(process.guard_pid)]
    assert {process.pid, stub.pid} == set(below)
    assert _shared_memory(process)

    process.stop()

    assert not process.running
    assert not process.is_ready()
    _wait_gone(*below)
    assert not _shared_memory(process)


def test_killed_triton_leaves_nothing(make_echo: MakeEcho) -> None:
    process = make_echo()
    process.start()
    process.wait_ready(DEADLINE_S)
    below = [found.pid for found in descendants(process.guard_pid)]

    process.kill()

    assert process.wait_exit(DEADLINE_S)
    _wait_gone(*below)
    assert not _shared_memory(process)
    with pytest.raises(LauncherError, match="Triton ended"):
        process.check_alive()


def test_nothing_is_left_when_the_parent_is_killed(make_echo: MakeEcho, installation: Installation) -> None:
    process = make_echo()
    environment, options = installation.triton, process.options
    ports = map(str, (options.http_port, options.grpc_port, options.metrics_port))
    libraries = ":".join(map(str, environment.library_path))
    where = [str(environment.root), environment.version, libraries, str(process.repository), str(process.state)]
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, *where, *ports],
        cwd=installation.paths.source,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as parent:
        assert parent.stdout is not None
        guard = int(parent.stdout.readline())
        below = [found.pid for found in descendants(guard)]
        assert len(below) == 2
        parent.kill()

    _wait_gone(guard, *below)
    assert not list(Path("/dev/shm").glob(f"starling_{parent.pid}_*"))


def test_a_killed_stub_is_healed_by_unload_and_load(make_echo: MakeEcho) -> None:
    process = make_echo()
    process.start()
    process.wait_ready(DEADLINE_S)

    assert process.kill_stub("echo") == 1

    with pytest.raises(InferenceServerException, match="not healthy"):
        _say(process, "hello")
    assert process.is_ready(), "Triton does not notice; should it learn to, the gateway's healing can go"
    with triton_grpc.InferenceServerClient(process.options.grpc_url) as client:
        client.unload_model("echo")
        client.load_model("echo")
    assert _say(process, "hello") == "hello"


def test_a_paused_triton_accepts_and_does_not_answer(make_echo: MakeEcho) -> None:
    process = make_echo()
    process.start()
    process.wait_ready(DEADLINE_S)

    process.pause()
    found = read_process(process.pid)
    assert found is not None
    assert found.state == "T"
    with socket.create_connection(("127.0.0.1", process.options.grpc_port), timeout=DEADLINE_S):
        pass
    with pytest.raises(InferenceServerException):
        _say(process, "hello", timeout_s=0.5)
    process.resume()

    assert _say(process, "hello") == "hello"


def test_a_port_in_use_is_named(make_echo: MakeEcho) -> None:
    process = make_echo()
    with (
        socket.create_server(("127.0.0.1", process.options.grpc_port)),
        pytest.raises(LauncherError, match=rf"port {process.options.grpc_port} .*STARLING_TRITON_GRPC_PORT"),
    ):
        process.start()
    assert not process.running


def test_a_model_that_cannot_load_is_explained(make_echo: MakeEcho) -> None:
    process = make_echo()
    (process.repository / "echo" / "1" / "model.py").write_text("raise RuntimeError('no weights for you')")
    process.start()

    with pytest.raises(LauncherError, match=r"Triton ended: .*no weights for you.*log: .*triton\.log"):
        process.wait_ready(DEADLINE_S)


def test_a_config_that_cannot_be_read_is_explained(make_echo: MakeEcho) -> None:
    process = make_echo()
    (process.repository / "echo" / "config.pbtxt").write_text("nonsense {")
    process.start()

    with pytest.raises(LauncherError, match=r"failed to read text proto from .*config\.pbtxt"):
        process.wait_ready(DEADLINE_S)


async def test_the_supervisor_starts_a_killed_triton_again(make_echo: MakeEcho) -> None:
    process = make_echo()
    seen: list[TritonState] = []
    supervisor = TritonSupervisor(
        process, policy=RestartPolicy(first_s=0.01), on_change=lambda state, _: seen.append(state)
    )
    async with supervisor:
        first = process.pid
        os.kill(first, signal.SIGKILL)
        await supervisor.wait_for(TritonState.WAITING, DEADLINE_S)
        await supervisor.wait_for(TritonState.READY, DEADLINE_S)
        assert process.pid != first
        assert supervisor.restarts == 1
        assert _say(process, "hello") == "hello"
        pids = [process.guard_pid, process.pid]

    _wait_gone(*pids)
    assert seen == ["starting", "ready", "waiting", "starting", "ready", "stopped"]


async def test_the_supervisor_tries_until_it_succeeds(make_echo: MakeEcho) -> None:
    process = make_echo()
    model = process.repository / "echo" / "1" / "model.py"
    good = model.read_text()
    failures: list[str] = []

    def on_change(state: TritonState, why: str) -> None:
        if state is TritonState.WAITING and "for now" in why:
            failures.append(why)
            model.write_text(good)

    async with TritonSupervisor(process, policy=RestartPolicy(first_s=0.01), on_change=on_change) as supervisor:
        model.write_text("raise RuntimeError('not for now')")
        process.kill()
        await supervisor.wait_for(TritonState.WAITING, DEADLINE_S)
        await supervisor.wait_for(TritonState.READY, DEADLINE_S)
        assert len(failures) == 1
        assert supervisor.restarts == 2


ABORT_ONCE = """
import os, signal
from pathlib import Path
marker = Path(__file__).with_name("aborted")
if not marker.exists():
    marker.touch()
    # The stub's parent is the server.
    os.kill(os.getppid(), signal.SIGABRT)
"""


def test_a_server_that_crashes_at_its_start_is_started_once_more(make_echo: MakeEcho) -> None:
    process = make_echo()
    model = process.repository / "echo" / "1" / "model.py"
    model.write_text(model.read_text() + ABORT_ONCE)

    process.start_ready()

    assert (model.parent / "aborted").exists()
    assert _say(process, "hello") == "hello"


async def test_a_crash_at_the_supervised_start_is_no_failure(make_echo: MakeEcho) -> None:
    process = make_echo()
    model = process.repository / "echo" / "1" / "model.py"
    model.write_text(model.read_text() + ABORT_ONCE)

    async with TritonSupervisor(process) as supervisor:
        assert supervisor.restarts == 1
        assert _say(process, "hello") == "hello"


async def test_the_first_start_fails_at_once(make_echo: MakeEcho) -> None:
    process = make_echo()
    (process.repository / "echo" / "1" / "model.py").write_text("raise RuntimeError('no')")

    with pytest.raises(LauncherError, match="Triton ended"):
        await TritonSupervisor(process).start()
    assert not process.running


def test_ports_come_from_the_environment() -> None:
    options = TritonOptions.from_environment({"STARLING_TRITON_GRPC_PORT": "9001"})
    assert (options.grpc_port, options.http_port) == (9001, TritonOptions().http_port)
    assert options.grpc_url == "127.0.0.1:9001"
    with pytest.raises(LauncherError, match="STARLING_TRITON_HTTP_PORT=99999 is not a port"):
        TritonOptions.from_environment({"STARLING_TRITON_HTTP_PORT": "99999"})
