"""Debian's redis-server."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from typing import ClassVar

from tests.servers.process import Server, find_program

PASSWORD = "p@ss/w0rd-redis"


class RedisServer(Server):
    """Redis with a password.

    Args:
        persistent: whether what was written survives a SIGKILL.
        environment: variables beyond those of the tests.
    """

    name: ClassVar[str] = "redis"

    def __init__(self, *, persistent: bool = False, environment: Mapping[str, str] | None = None) -> None:
        self._program = find_program("redis-server", "redis-server")
        self._persistent = persistent
        super().__init__(environment=environment)

    @property
    def url(self) -> str:
        return f"redis://:p%40ss%2Fw0rd-redis@127.0.0.1:{self.port}/0"

    def command(self) -> Sequence[str]:
        config = self.folder / "redis.conf"
        config.write_text(
            f"bind 127.0.0.1\nport {self.port}\ndir {self.folder}\nrequirepass {PASSWORD}\nsave ''\n"
            f"appendonly {'yes' if self._persistent else 'no'}\nappendfsync always\n"
        )
        return [self._program, str(config)]

    def is_ready(self) -> bool:
        try:
            return b"+PONG" in self._ask("PING")
        except OSError:
            return False

    def flush(self) -> None:
        """Forgets everything."""
        self._ask("FLUSHALL")

    def _ask(self, command: str) -> bytes:
        with socket.create_connection(("127.0.0.1", self.port), timeout=30) as connection:
            connection.sendall(f"AUTH {PASSWORD}\r\n{command}\r\nQUIT\r\n".encode())
            reply = b""
            while data := connection.recv(1000):
                reply += data
            return reply
