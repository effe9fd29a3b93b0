"""The real Triton for tests: one that all share, and as many of their own as they want to break."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from launcher.errors import LauncherError
from launcher.paths import Paths
from launcher.ports import PortLease, lease_port
from launcher.progress import Reporter
from launcher.repository import ModelPlan, default_plans
from launcher.setup import Installation, set_up
from launcher.triton import TritonOptions, TritonProcess
from tests.end_to_end.gateway import GatewayProcess, MakeGateway

LOG_LINES = 60
RUNNING = pytest.StashKey[list[TritonProcess]]()

MakeTriton = Callable[..., TritonProcess]
"""`make_triton(models=None, start=True)`: a Triton of the test's own, ready; `models` names those it serves."""


def _options(leases: list[PortLease]) -> TritonOptions:
    leases += [lease_port() for _ in range(3)]
    http, grpc, metrics = (lease.port for lease in leases[-3:])
    return TritonOptions(http_port=http, grpc_port=grpc, metrics_port=metrics)


def _plans(paths: Paths, models: Sequence[str] | None) -> list[ModelPlan]:
    plans = [plan for plan in default_plans(paths) if models is None or plan.name in models]
    missing = set(models or []) - {plan.name for plan in plans}
    assert not missing, f"no weights for {missing}: run `make setup`"
    return plans


@pytest.fixture(scope="session")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """Weights and Triton's environment, as `make setup` makes them; state in a temporary folder."""
    paths = replace(Paths.from_environment(), state=tmp_path_factory.mktemp("state"))
    return set_up(paths, Reporter(quiet=True))


@pytest.fixture(scope="session")
def triton(installation: Installation, pytestconfig: pytest.Config) -> Iterator[TritonProcess]:
    """A Triton with every model, shared by the whole session: tests must leave it as it was."""
    leases: list[PortLease] = []
    process = installation.triton_process(_options(leases), _plans(installation.paths, None))
    _running(pytestconfig).append(process)
    try:
        process.start_ready()
        yield process
    finally:
        _end(process)
        for lease in leases:
            lease.close()


def _end(process: TritonProcess) -> None:
    """Ends a Triton that nobody needs any more, without the seconds that a farewell takes."""
    with suppress(LauncherError):  # it does not run
        process.kill()
    process.stop()


@contextmanager
def _tritons(installation: Installation, folder: Path, config: pytest.Config) -> Iterator[MakeTriton]:
    leases: list[PortLease] = []
    made: list[TritonProcess] = []

    def make(models: Sequence[str] | None = None, *, start: bool = True) -> TritonProcess:
        paths = replace(installation.paths, state=folder / f"triton-{len(made)}")
        own = replace(installation, paths=paths)
        process = own.triton_process(_options(leases), _plans(paths, models))
        made.append(process)
        _running(config).append(process)
        if start:
            process.start_ready()
        return process

    try:
        yield make
    finally:
        for process in made:
            _end(process)
            _running(config).remove(process)
        for lease in leases:
            lease.close()


@pytest.fixture
def make_triton(installation: Installation, tmp_path: Path, pytestconfig: pytest.Config) -> Iterator[MakeTriton]:
    """Tritons of the test's own, to be killed and paused; each has its ports and its state folder."""
    with _tritons(installation, tmp_path, pytestconfig) as make:
        yield make


@pytest.fixture(scope="module")
def fragile_triton(
    installation: Installation, tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config
) -> Iterator[TritonProcess]:
    """A Triton with the English model for the tests of a module that break it, each of which leaves it whole."""
    with _tritons(installation, tmp_path_factory.mktemp("fragile"), pytestconfig) as make:
        yield make(["asr"])


@asynccontextmanager
async def supervised(triton: TritonProcess) -> AsyncIterator[None]:
    """Starts a Triton again whenever it has ended, as the launcher does.

    Triton 2.51 aborts now and then when a stub is killed while they exchange something.
    """
    over = asyncio.Event()

    async def keep() -> None:
        while not over.is_set():
            if await asyncio.to_thread(triton.wait_exit, 0.2):
                await asyncio.to_thread(triton.stop)
                with suppress(LauncherError):  # a fault struck it while it was starting: once more
                    await asyncio.to_thread(triton.start_ready)

    keeper = asyncio.create_task(keep())
    try:
        yield
    finally:
        over.set()
        await keeper


@pytest.fixture
def make_gateway(triton: TritonProcess, tmp_path: Path) -> Iterator[MakeGateway]:
    """Gateways of the test's own on the shared Triton (or on `triton_addresses`), ready; settings by name."""
    made: list[GatewayProcess] = []

    def make(
        *,
        folder: str = "",
        triton_addresses: list[str] | None = None,
        environment: Mapping[str, str] | None = None,
        **settings: object,
    ) -> GatewayProcess:
        addresses = triton_addresses or [triton.options.grpc_url]
        process = GatewayProcess(tmp_path / (folder or f"gateway-{len(made)}"), addresses, **settings)
        process.environment = environment or {}
        made.append(process)
        return process.start()

    try:
        yield make
    finally:
        for process in made:
            process.close()


@pytest.fixture(scope="module")
def gateway(triton: TritonProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """A gateway with the default settings that the tests of a module share."""
    process = GatewayProcess(tmp_path_factory.mktemp("gateway"), [triton.options.grpc_url])
    try:
        yield process.start()
    finally:
        process.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failed test shows what its Tritons said last; the whole logs stay in the temporary folder."""
    report = yield
    if report.failed:
        for process in _running(item.config):
            if process.log.exists():
                lines = process.log.read_text(errors="replace").splitlines()[-LOG_LINES:]
                report.sections.append((f"Triton's log, {process.log}", "\n".join(lines)))
    return report


def _running(config: pytest.Config) -> list[TritonProcess]:
    return config.stash.setdefault(RUNNING, [])
