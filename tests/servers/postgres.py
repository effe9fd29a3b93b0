"""Debian's postgresql."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from tests.servers.process import Server, account, find_program, run_as

PASSWORD = "p@ss/w0rd-postgresql"


class PostgresServer(Server):
    """PostgreSQL with a superuser `starling`, who owns the database `starling`."""

    name: ClassVar[str] = "postgresql"
    stop_signal: ClassVar[signal.Signals] = signal.SIGINT  # does not wait for clients

    def __init__(self) -> None:
        folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
        self._program = find_program("postgres", "postgresql", *folders)
        self._isready = find_program("pg_isready", "postgresql", *folders)
        initdb = find_program("initdb", "postgresql", *folders)
        super().__init__(account("postgres"))
        secret = self.folder / "password"
        secret.write_text(PASSWORD)
        run_as(
            self.user,
            [
                initdb,
                f"--pgdata={self.folder}/data",
                "--username=starling",
                f"--pwfile={secret}",
                "--auth=scram-sha-256",
                "--encoding=UTF8",
                "--locale=C.UTF-8",
                "--no-sync",
            ],
        )

    @property
    def url(self) -> str:
        return f"postgresql://starling:p%40ss%2Fw0rd-postgresql@127.0.0.1:{self.port}/postgres"

    def command(self) -> Sequence[str]:
        settings = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": str(self.folder),
            "fsync": "off",  # a SIGKILL loses nothing, and no test cuts the power
            "shared_buffers": "16MB",
            "dynamic_shared_memory_type": "mmap",
            "max_connections": "60",
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return [self._program, "-D", f"{self.folder}/data", "-p", str(self.port), *options]

    def is_ready(self) -> bool:
        query = [self._isready, "-q", "-h", "127.0.0.1", "-p", str(self.port), "-t", "1"]
        return subprocess.run(query, check=False, timeout=10).returncode == 0
