"""Debian's mariadb-server."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from tests.servers.process import Server, account, find_program, private_folder, run_as

PASSWORD = "p@ss/w0rd-mariadb"
_PACKAGE = "mariadb-server"
_INIT = f"""\
CREATE DATABASE IF NOT EXISTS starling;
CREATE USER IF NOT EXISTS 'starling'@'127.0.0.1' IDENTIFIED BY '{PASSWORD}';
GRANT ALL ON starling.* TO 'starling'@'127.0.0.1';
"""


def make_template() -> Path:
    """A fresh data folder: making one takes seconds, copying it does not."""
    install = find_program("mariadb-install-db", _PACKAGE)
    user = account("mysql")
    folder = private_folder("mariadb-template", user)
    run_as(
        user,
        [
            install,
            "--no-defaults",
            f"--datadir={folder}/data",
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
            "--innodb-log-file-size=8M",
        ],
    )
    return folder


class MariadbServer(Server):
    """MariaDB with a user `starling`, who owns the database `starling`. Its default character set is Latin-1.

    Args:
        template: from `make_template`.
    """

    name: ClassVar[str] = "mariadb"

    def __init__(self, template: Path) -> None:
        self._program = find_program("mariadbd", _PACKAGE)
        super().__init__(account("mysql"))
        shutil.copytree(template / "data", self.folder / "data", copy_function=shutil.copy2)
        for path in [self.folder / "data", *(self.folder / "data").rglob("*")]:
            if self.user:
                shutil.chown(path, self.user, self.user)

    @property
    def url(self) -> str:
        return f"mysql://starling:p%40ss%2Fw0rd-mariadb@127.0.0.1:{self.port}/starling"

    def command(self) -> Sequence[str]:
        init = self.folder / "init.sql"
        init.write_text(_INIT)
        return [
            self._program,
            "--no-defaults",
            f"--datadir={self.folder}/data",
            f"--socket={self.folder}/socket",
            f"--pid-file={self.folder}/pid",
            f"--init-file={init}",
            "--bind-address=127.0.0.1",
            f"--port={self.port}",
            "--character-set-server=latin1",
            "--innodb-buffer-pool-size=32M",
            "--innodb-log-file-size=8M",
            "--innodb-flush-log-at-trx-commit=2",  # a SIGKILL loses nothing, and no test cuts the power
            "--innodb-lock-wait-timeout=5",
            "--skip-log-bin",
            "--skip-name-resolve",
        ]

    def is_ready(self) -> bool:
        # The port is open before the server is; only its greeting says that it is ready.
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                return b"MariaDB" in connection.recv(200)
        except OSError:
            return False

    def stop(self) -> None:
        # What it would tidy up is thrown away.
        self.kill()
