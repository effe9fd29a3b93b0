"""Gateways, and Tritons that a test may break."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from launcher.setup import Installation
from launcher.triton import TritonProcess
from tests.end_to_end.gateway import GatewayProcess, MakeGateway
from tests.servers.triton import MakeTriton, tritons


@pytest.fixture
def make_triton(installation: Installation, tmp_path: Path, pytestconfig: pytest.Config) -> Iterator[MakeTriton]:
    """Tritons of the test's own, to be killed and paused; each has its ports and its state folder."""
    with tritons(installation, tmp_path, pytestconfig) as make:
        yield make


@pytest.fixture(scope="module")
def fragile_triton(
    installation: Installation, tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config
) -> Iterator[TritonProcess]:
    """A Triton with the English model for the tests of a module that break it, each of which leaves it whole."""
    with tritons(installation, tmp_path_factory.mktemp("fragile"), pytestconfig) as make:
        yield make(["asr"])


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
