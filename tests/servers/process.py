"""A real server as a child process: private folder, free port, gone for certain when the tests are."""

from __future__ import annotations

import contextlib
import ctypes
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

import psutil
import pytest

from launcher.ports import PortLease, lease_port

START_DEADLINE_S = 60.0
STOP_DEADLINE_S = 30.0
_PR_SET_PDEATHSIG = 1

_NURSERY = ThreadPoolExecutor(1, "servers")
"""Servers are made by a thread that lives as long as the tests: they end with the thread that made them, which would
otherwise be one of the event loop of a single test."""


def find_program(name: str, package: str, *folders: Path) -> str:
    """The path of a program; skips the test where it is missing, and says what would install it."""
    path = shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", *map(str, folders)]))
    if path is None:
        pytest.skip(f"left out: {name} is not installed; install with: apt-get install -y {package}")
    return path


def private_folder(name: str, user: str | None) -> Path:
    """A new folder that only `user` (the present one where None) can look into."""
    # In memory where there is room: what the servers flush to a busy disk would be half of the tests' time.
    memory = Path("/dev/shm")
    has_room = os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 2**30
    folder = Path(tempfile.mkdtemp(prefix=f"starling-{name}-", dir=memory if has_room else None))
    if user is not None:
        entry = pwd.getpwnam(user)
        os.chown(folder, entry.pw_uid, entry.pw_gid)
    return folder


def account(name: str) -> str | None:
    """`name`, if this is root and the server would refuse to run as root; else None, the present user."""
    return name if os.geteuid() == 0 else None


def run_as(user: str | None, command: Sequence[str], *, timeout: float = START_DEADLINE_S) -> None:
    """Runs a program to its end as `user`; its output is in the error where it fails."""
    done = subprocess.run(
        command,
        user=user,
        group=_group(user),
        extra_groups=[] if user else None,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        cwd="/",
    )
    if done.returncode:
        raise RuntimeError(f"{command[0]} ended with {done.returncode}:\n{done.stdout}{done.stderr}")


class Server(ABC):
    """A server that can be started, stopped, killed, paused and started again, always on the same port."""

    name: ClassVar[str]
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM

    def __init__(self, user: str | None = None, environment: Mapping[str, str] | None = None) -> None:
        self.user = user
        self._environment = environment or {}
        self._leases: list[PortLease] = []
        self.port = self.lease()
        self.folder = private_folder(self.name, user)
        self._process: subprocess.Popen[bytes] | None = None

    def lease(self) -> int:
        """A port that is this server's until it is closed."""
        self._leases.append(lease_port())
        return self._leases[-1].port

    @abstractmethod
    def command(self) -> Sequence[str]:
        """The program and its arguments."""

    @abstractmethod
    def is_ready(self) -> bool:
        """Whether the server answers."""

    def start(self) -> None:
        """Starts the server and waits until it answers."""
        self._process = _NURSERY.submit(self._spawn).result()
        deadline = time.monotonic() + START_DEADLINE_S
        while not self.is_ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self.name} did not start:\n{self.log.read_text(errors='replace')[-4000:]}")
            time.sleep(0.02)  # another process's readiness is no event that could be awaited

    def _spawn(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(
                self.command(),
                user=self.user,
                group=_group(self.user),
                extra_groups=[] if self.user else None,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **self._environment},
                cwd=self.folder,
                preexec_fn=_die_with_parent,  # noqa: PLW1509  it allocates nothing and takes no lock
                start_new_session=True,
            )

    def stop(self) -> None:
        """Ends the server in good order, or by force where it takes too long."""
        if self._process is None:
            return
        self.resume()
        self._process.send_signal(self.stop_signal)
        try:
            self._process.wait(STOP_DEADLINE_S)
        except subprocess.TimeoutExpired:
            self.kill()
        self._process = None

    def kill(self) -> None:
        """SIGKILL for the server and its children; returns when all are gone."""
        family = self._family()
        _each(family, psutil.Process.kill)
        if self._process is not None:
            self._process.wait(STOP_DEADLINE_S)
        psutil.wait_procs(family, timeout=STOP_DEADLINE_S)
        self._process = None

    def pause(self) -> None:
        """Stops the server in its tracks: connections stay open and nothing answers."""
        _each(self._family(), psutil.Process.suspend)

    def resume(self) -> None:
        """The end of a pause."""
        _each(self._family(), psutil.Process.resume)

    @property
    def log(self) -> Path:
        """What the server said."""
        return self.folder / "server.log"

    def close(self) -> None:
        """Ends the server and removes its folder."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)
        for lease in self._leases:
            lease.close()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _family(self) -> list[psutil.Process]:
        if self._process is None or self._process.poll() is not None:
            return []
        try:
            parent = psutil.Process(self._process.pid)
            return [parent, *parent.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []


def _each(family: Sequence[psutil.Process], action: Callable[[psutil.Process], None]) -> None:
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):  # a server's child may end at any time
            action(process)


def _group(user: str | None) -> int | None:
    return None if user is None else pwd.getpwnam(user).pw_gid


def _die_with_parent() -> None:
    # So that a test run that is killed leaves no server behind.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
