from __future__ import annotations

import socket
import subprocess
import sys

import pytest

from launcher.errors import LauncherError
from launcher.ports import LEASE_RANGE, check_free, is_free, lease_port

LEASE_ALL = """
from launcher.ports import lease_port
leases = [lease_port() for _ in range(200)]
print(*[lease.port for lease in leases], flush=True)
input()
"""


def test_a_port_in_use_is_named_with_its_setting() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(LauncherError, match=rf"port {port} .Triton's gRPC. is in use: .* set STARLING_X"):
            check_free(port, "Triton's gRPC", "STARLING_X")
    check_free(port, "Triton's gRPC", "STARLING_X")


def test_leases_of_two_processes_never_meet() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", LEASE_ALL], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        theirs = {int(port) for port in other.stdout.readline().split()}
        ours = [lease_port() for _ in range(200)]
        other.communicate("\n", timeout=30)

    assert len(theirs) == 200
    assert not theirs & {lease.port for lease in ours}
    for lease in ours:
        lease.close()


def test_a_lease_is_on_a_port_that_a_server_can_take() -> None:
    with lease_port() as lease, socket.create_server(("127.0.0.1", lease.port)):
        assert lease.port in LEASE_RANGE
        assert not is_free(lease.port)
