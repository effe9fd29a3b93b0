"""TCP ports on this machine: whether one is free, and leases on free ones that other processes respect."""

from __future__ import annotations

import fcntl
import os
import random
import socket
import tempfile
from dataclasses import dataclass
from pathlib import Path

from launcher.errors import LauncherError

LEASE_RANGE = range(15_000, 32_000)
"""Below the range that Linux gives to outgoing connections, which could take a port between check and use."""


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Whether a server could listen on the port now."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        # As servers do: a connection that lingers from an earlier run does not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            # A listener with SO_REUSEADDR shows only here.
            probe.listen(1)
        except OSError:
            return False
    return True


def check_free(port: int, what: str, setting: str, host: str = "127.0.0.1") -> None:
    """Refuses a port that is taken.

    Args:
        port: to be listened on.
        what: whose port it is, such as ``Triton's gRPC``.
        setting: the environment variable that changes it.
        host: the address to be listened on.

    Raises:
        LauncherError: naming the port and the setting.
    """
    if not is_free(port, host):
        raise LauncherError(
            f"port {port} ({what}) is in use", f"stop what listens there, or set {setting} to another port"
        )


@dataclass(slots=True)
class PortLease:
    """A free port that no other holder of leases on this machine gets; kept until closed or the process ends."""

    port: int
    _descriptor: int

    def close(self) -> None:
        """Gives the port back."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> PortLease:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def lease_port() -> PortLease:
    """Leases a port that is free on every address.

    Raises:
        LauncherError: none is free.
    """
    folder = Path(tempfile.gettempdir()) / f"starling-ports-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    for port in random.sample(LEASE_RANGE, 400):
        descriptor = os.open(folder / str(port), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            continue
        if is_free(port, "0.0.0.0"):
            return PortLease(port, descriptor)
        os.close(descriptor)
    raise LauncherError("no free TCP port was found", "stop something that listens on many ports")
