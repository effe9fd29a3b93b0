"""A lock between processes, kept by the kernel: it cannot be left behind by one that died."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from launcher.errors import LauncherError

POLL_S = 0.1


@contextmanager
def file_lock(
    path: Path, *, timeout_s: float, busy: str, on_wait: Callable[[str], None] | None = None
) -> Iterator[None]:
    """Holds an exclusive `flock` on `path`, whose content names the holder's process id.

    Args:
        path: the lock file; it and its folder are made when missing, and the file stays.
        timeout_s: how long to wait; 0 fails at once.
        busy: what the error says is going on, such as ``another set-up is running``.
        on_wait: called once, with the holder, when the lock is not free.

    Raises:
        LauncherError: somebody else held the lock for the whole time.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        deadline = time.monotonic() + timeout_s
        waiting = False
        while not _try_lock(descriptor):
            holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
            if time.monotonic() >= deadline:
                raise LauncherError(f"{busy} (process {holder})", "wait for it or stop it, then run this again")
            if not waiting and on_wait is not None:
                on_wait(f"{busy} (process {holder}); waiting for it")
            waiting = True
            # flock has no deadline of its own.
            time.sleep(POLL_S)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
