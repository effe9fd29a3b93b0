"""A small process between Starling and Triton, so that nothing of Triton outlives Starling, however that ends.

`python -m launcher.guard --parent PID --log FILE ... -- PROGRAM ARGUMENT...` runs the program and

- ends it when the parent ends (a pidfd tells, so that a SIGKILL and a dying thread are told apart);
- ends what the program leaves behind: a Triton that is killed leaves its stubs, which are adopted and killed here;
- takes the program along should the guard itself be killed (PR_SET_PDEATHSIG);
- writes the program's output to a log file with rotation, and removes the shared memory of a program that was killed.

Its first line on standard output is the program's process id. SIGTERM asks the program to end, with a deadline.
Only the standard library is used, and little of it: the guard costs about 9 MB.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from launcher.processes import descendants, read_process

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
READ_BYTES = 1 << 16
DRAIN_S = 1.0
REAP_S = 5.0
SHARED_MEMORY = Path("/dev/shm")


class RotatingLog:
    """A log file that is put aside when it is full; `keep` old ones stay."""

    def __init__(self, path: Path, limit_bytes: int, keep: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._limit = limit_bytes
        self._keep = keep
        self._file: BinaryIO = path.open("ab", buffering=0)

    def write(self, data: bytes) -> None:
        """Appends; a disk that is full loses lines but does not stop the program whose output this is."""
        with suppress(OSError):
            if self._file.tell() + len(data) > self._limit:
                self._rotate()
            self._file.write(data)

    def close(self) -> None:
        """Closes the file; nothing can be written after."""
        self._file.close()

    def _rotate(self) -> None:
        self._file.close()
        for number in range(self._keep, 0, -1):
            older = self._path.with_name(f"{self._path.name}.{number}")
            newer = self._path if number == 1 else self._path.with_name(f"{self._path.name}.{number - 1}")
            with suppress(FileNotFoundError):
                newer.replace(older)
        self._file = self._path.open("ab", buffering=0)


@dataclass(frozen=True, slots=True)
class GuardOptions:
    """What the guard was told.

    Attributes:
        parent: the process to outlive by nothing.
        stop_timeout_s: from SIGTERM to SIGKILL.
        shm_prefix: names of shared memory that belong to the program; empty for none.
        command: the program.
    """

    parent: int
    stop_timeout_s: float
    shm_prefix: str
    command: tuple[str, ...]


class Guard:
    """Runs one program to its end."""

    def __init__(self, options: GuardOptions, log: RotatingLog) -> None:
        self._options = options
        self._log = log
        self._selector = selectors.DefaultSelector()
        self._kill_at: float | None = None

    def run(self) -> int:
        """Starts the program and returns its exit status, 128 + N where signal N ended it."""
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(PR_SET_CHILD_SUBREAPER, 1)
        wake, wake_write = os.pipe()
        os.set_blocking(wake_write, False)
        signal.set_wakeup_fd(wake_write)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        parent = os.pidfd_open(self._options.parent)
        if os.getppid() != self._options.parent:
            return 0

        child = subprocess.Popen(
            self._options.command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            # One thread lives here, so that code between fork and exec is safe.
            preexec_fn=lambda: libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL),  # noqa: PLW1509
        )
        print(child.pid, flush=True)
        assert child.stdout is not None
        os.set_blocking(child.stdout.fileno(), False)
        child_handle = os.pidfd_open(child.pid)
        self._selector.register(wake, selectors.EVENT_READ, "signal")
        self._selector.register(parent, selectors.EVENT_READ, "parent")
        self._selector.register(child_handle, selectors.EVENT_READ, "child")
        self._selector.register(child.stdout, selectors.EVENT_READ, "output")
        try:
            self._watch(child, wake)
        finally:
            self._end_all(child)
        return child.returncode if child.returncode >= 0 else 128 - child.returncode

    def _watch(self, child: subprocess.Popen[bytes], wake: int) -> None:
        while True:
            wait = None if self._kill_at is None else max(0.0, self._kill_at - time.monotonic())
            ready = {key.data for key, _ in self._selector.select(wait)}
            if "output" in ready:
                self._copy_output(child)
            if "child" in ready or "parent" in ready:
                return
            if "signal" in ready and os.read(wake, 64) and self._kill_at is None:
                self._kill_at = time.monotonic() + self._options.stop_timeout_s
                child.send_signal(signal.SIGTERM)
                # A stopped process takes no notice of SIGTERM.
                child.send_signal(signal.SIGCONT)
            if self._kill_at is not None and time.monotonic() >= self._kill_at:
                return

    def _copy_output(self, child: subprocess.Popen[bytes]) -> None:
        assert child.stdout is not None
        with suppress(BlockingIOError):
            while data := child.stdout.read(READ_BYTES):
                self._log.write(data)
                return
            # End of file: the program closed its output; its end is told by its pidfd.
            if data == b"":
                self._selector.unregister(child.stdout)

    def _end_all(self, child: subprocess.Popen[bytes]) -> None:
        if child.poll() is None and self._kill_at is None:
            self._log.write(b"[guard] the parent process is gone: ending Triton\n")
        deadline = time.monotonic() + REAP_S
        while (left := descendants(os.getpid())) and time.monotonic() < deadline:
            for process in left:
                if process.state != "Z":
                    with suppress(ProcessLookupError):
                        os.kill(process.pid, signal.SIGKILL)
            child.poll()
            self._reap([process.pid for process in left if process.pid != child.pid])
        child.wait()
        assert child.stdout is not None
        until = time.monotonic() + DRAIN_S
        with suppress(BlockingIOError, ValueError):
            while time.monotonic() < until and (data := child.stdout.read(READ_BYTES)):
                self._log.write(data)
        self._remove_shared_memory()

    def _reap(self, killed: Sequence[int]) -> None:
        """Collects those of the killed processes that were adopted, waiting a moment for each."""
        for pid in killed:
            # Only these: what was made a moment before its maker was killed still lives.
            if (process := read_process(pid)) is not None and process.parent == os.getpid():
                with suppress(ChildProcessError):
                    os.waitpid(pid, 0)

    def _remove_shared_memory(self) -> None:
        if self._options.shm_prefix:
            for path in SHARED_MEMORY.glob(f"{self._options.shm_prefix}*"):
                path.unlink(missing_ok=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the guard from its command line."""
    parser = argparse.ArgumentParser(prog="launcher.guard")
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--log-bytes", type=int, default=10_000_000)
    parser.add_argument("--log-files", type=int, default=3)
    parser.add_argument("--stop-timeout", type=float, default=10.0)
    parser.add_argument("--shm-prefix", default="")
    parser.add_argument("command", nargs="+")
    given = parser.parse_args(arguments)
    log = RotatingLog(given.log, given.log_bytes, given.log_files)
    options = GuardOptions(given.parent, given.stop_timeout, given.shm_prefix, tuple(given.command))
    try:
        return Guard(options, log).run()
    finally:
        log.close()


if __name__ == "__main__":
    sys.exit(main())
