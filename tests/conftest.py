"""The servers that tests share, each started once, when the first test needs it.

A test that kills or pauses a shared server leaves it running and answering; one that needs it empty empties it.
"""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.servers.mariadb import MariadbServer, make_template
from tests.servers.postgres import PostgresServer
from tests.servers.redis import RedisServer

# How fast a machine is, is no property of the code.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


def pytest_configure() -> None:
    """Gives Ctrl-C back to tests that a shell started in the background, which programs under test would ignore too."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="session")
def mariadb_template() -> Iterator[Path]:
    folder = make_template()
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def mariadb_server(mariadb_template: Path) -> Iterator[MariadbServer]:
    with MariadbServer(mariadb_template) as server:
        yield server


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    with PostgresServer() as server:
        yield server
