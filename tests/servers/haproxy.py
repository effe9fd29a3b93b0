"""HAProxy on the configuration that the containers use."""

from __future__ import annotations

import http.client
from collections.abc import Sequence
from typing import ClassVar

from launcher.paths import SOURCE_ROOT
from tests.servers.process import Server, find_program

CONFIG = SOURCE_ROOT / "deploy" / "haproxy" / "haproxy.cfg"


class HaproxyServer(Server):
    """The balancer before two gateways, given as `host:port`; it counts as started once it sees those of `up` ready."""

    name: ClassVar[str] = "haproxy"

    def __init__(self, first: str, second: str, *, up: frozenset[str] = frozenset({"gateway-1", "gateway-2"})) -> None:
        self._program = find_program("haproxy", "haproxy")
        super().__init__()
        self.inside_port = self.lease()
        self._up = up
        self._environment = {
            "STARLING_BIND": f"127.0.0.1:{self.port}",
            "STARLING_STATS_BIND": f"127.0.0.1:{self.inside_port}",
            "STARLING_GATEWAY_1": first,
            "STARLING_GATEWAY_2": second,
        }

    @property
    def url(self) -> str:
        """Of `/stream` behind the balancer."""
        return f"ws://127.0.0.1:{self.port}/stream"

    def command(self) -> Sequence[str]:
        return [self._program, "-db", "-f", str(CONFIG)]

    def is_ready(self) -> bool:
        try:
            return self.up_gateways() == self._up
        except OSError:
            return False

    def up_gateways(self) -> frozenset[str]:
        """Those that get new connections."""
        start = 'haproxy_server_status{proxy="gateways",server="'
        return frozenset(
            line.removeprefix(start).partition('"')[0]
            for line in self.get(self.inside_port, "/metrics")[1].splitlines()
            if line.startswith(start) and 'state="UP"' in line and line.endswith(" 1")
        )

    def get(self, port: int, path: str) -> tuple[int, str]:
        """Status and body of a plain request."""
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    def sessions(self) -> dict[str, float]:
        """Connections that each gateway has been given so far."""
        text = self.get(self.inside_port, "/metrics")[1]
        start = 'haproxy_server_sessions_total{proxy="gateways",server="'
        found = [line for line in text.splitlines() if line.startswith(start)]
        return {line.removeprefix(start).partition('"')[0]: float(line.rpartition(" ")[2]) for line in found}
