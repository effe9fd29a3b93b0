from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from launcher.guard import RotatingLog
from launcher.paths import SOURCE_ROOT
from launcher.processes import descendants, read_process

DEADLINE_S = 30.0
PARENT = """
import os, subprocess, sys
guard = subprocess.Popen([sys.executable, "-m", "launcher.guard", "--parent", str(os.getpid()), *sys.argv[1:]],
                         stdout=subprocess.PIPE, start_new_session=True)
print(guard.pid, guard.stdout.readline().decode().strip(), flush=True)
sys.stdin.read()
"""


@contextmanager
def _guard(log: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A guard that is a child of this process, and the number of the program that it runs."""
    command = [sys.executable, "-m", "launcher.guard", "--parent", str(os.getpid()), "--log", str(log), *arguments]
    guard = subprocess.Popen(command, cwd=SOURCE_ROOT, stdout=subprocess.PIPE, start_new_session=True)
    try:
        assert guard.stdout is not None
        yield guard, int(guard.stdout.readline())
    finally:
        guard.kill()
        guard.communicate()


def _wait_gone(*pids: int) -> None:
    """Waits for processes that are not ours; a process id is not used again so soon."""
    for pid in pids:
        try:
            handle = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            ready, _, _ = select.select([handle], [], [], DEADLINE_S)
            assert ready, f"{read_process(pid)} is still there"
        finally:
            os.close(handle)


def test_the_programs_output_and_exit_status_come_through(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "program.log"
    with _guard(log, "--", "sh", "-c", "echo to out; echo to err >&2; exit 7") as (guard, _):
        assert guard.wait(DEADLINE_S) == 7

    assert log.read_text() == "to out\nto err\n"


def test_nothing_is_left_when_the_parent_is_killed(tmp_path: Path) -> None:
    # The grandchild ignores everything that can be ignored and has a session of its own.
    program = "trap '' TERM HUP INT; setsid sh -c \"trap '' TERM HUP; sleep 1000\" & wait"
    arguments = ["--log", str(tmp_path / "log"), "--", "sh", "-c", program]
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, *arguments], cwd=SOURCE_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        guard, child = map(int, parent.stdout.readline().split())
        below = [process.pid for process in descendants(guard)]
        assert child in below
        parent.kill()

    _wait_gone(guard, *below)


def test_nothing_is_left_of_a_program_that_makes_processes_as_it_is_ended(tmp_path: Path) -> None:
    made = tmp_path / "made"
    program = f"while :; do sh -c 'echo $$ >> {made}; exec sleep 1000' & done"
    for _ in range(10):
        made.write_text("")
        arguments = ["--log", str(tmp_path / "log"), "--", "sh", "-c", program]
        with subprocess.Popen(
            [sys.executable, "-c", PARENT, *arguments], cwd=SOURCE_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as parent:
            assert parent.stdout is not None
            guard, _ = map(int, parent.stdout.readline().split())
            while made.read_text().count("\n") < 5:
                time.sleep(0.01)  # of a file there is no event to wait for
            parent.kill()
        _wait_gone(guard)
        _wait_gone(*map(int, made.read_text().split()))


def test_what_a_killed_program_leaves_behind_is_ended(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    os.mkfifo(ready)
    program = f"sh -c 'echo $$ > {ready}; exec sleep 1000' & wait"
    with _guard(tmp_path / "log", "--", "sh", "-c", program) as (guard, child):
        orphan = int(ready.read_text())
        os.kill(child, signal.SIGKILL)

        assert guard.wait(DEADLINE_S) == 128 + signal.SIGKILL
        _wait_gone(orphan)


def test_sigterm_is_passed_on(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    os.mkfifo(ready)
    program = f"trap 'echo bye; exit 3' TERM; echo up > {ready}; while :; do sleep 0.05; done"
    with _guard(tmp_path / "log", "--", "sh", "-c", program) as (guard, _):
        assert ready.read_text() == "up\n"
        guard.terminate()
        assert guard.wait(DEADLINE_S) == 3

    assert (tmp_path / "log").read_text() == "bye\n"


def test_a_program_that_does_not_stop_is_killed_at_the_deadline(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    os.mkfifo(ready)
    program = f"trap '' TERM; echo up > {ready}; while :; do sleep 0.05; done"
    with _guard(tmp_path / "log", "--stop-timeout", "0.3", "--", "sh", "-c", program) as (guard, _):
        assert ready.read_text() == "up\n"
        guard.terminate()
        assert guard.wait(DEADLINE_S) == 128 + signal.SIGKILL


def test_a_paused_program_can_be_stopped(tmp_path: Path) -> None:
    with _guard(tmp_path / "log", "--", "sleep", "1000") as (guard, child):
        os.kill(child, signal.SIGSTOP)
        guard.terminate()
        assert guard.wait(DEADLINE_S) == 128 + signal.SIGTERM


def test_the_program_goes_when_the_guard_is_killed(tmp_path: Path) -> None:
    with _guard(tmp_path / "log", "--", "sleep", "1000") as (guard, child):
        guard.kill()
        _wait_gone(child)


def test_shared_memory_of_the_program_is_removed(tmp_path: Path) -> None:
    prefix = f"starling_test_{os.getpid()}_"
    mine, other = Path(f"/dev/shm/{prefix}region"), Path(f"/dev/shm/other_{prefix}")
    mine.touch()
    other.touch()
    try:
        with _guard(tmp_path / "log", "--shm-prefix", prefix, "--", "true") as (guard, _):
            guard.wait(DEADLINE_S)
        assert not mine.exists()
        assert other.exists()
    finally:
        mine.unlink(missing_ok=True)
        other.unlink()


def test_a_full_log_is_put_aside(tmp_path: Path) -> None:
    log = RotatingLog(tmp_path / "log", limit_bytes=10, keep=2)
    for number in range(4):
        log.write(b"line %d\n" % number)
    log.close()

    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "log": "line 3\n",
        "log.1": "line 2\n",
        "log.2": "line 1\n",
    }
