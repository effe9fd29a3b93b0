"""Certificates that are read, changed under the server, and broken."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat
from structlog.testing import capture_logs

from server.config import ConfigError, load
from server.tls import Tls
from tests.server.certificates import Authority, Certificate


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture
def log() -> Iterator[list[object]]:
    with capture_logs() as entries:
        yield entries  # type: ignore[misc]


@asynccontextmanager
async def serving(tls: Tls) -> AsyncIterator[int]:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        del reader
        writer.write(b"hello")
        writer.close()

    async with await asyncio.start_server(greet, "127.0.0.1", 0, ssl=tls.context) as server:
        yield server.sockets[0].getsockname()[1]


async def serial(port: int, client: ssl.SSLContext) -> int:
    """The serial number of the certificate that a new connection is shown."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client)
    assert await reader.read() == b"hello"
    shown = writer.get_extra_info("peercert")
    writer.close()
    await writer.wait_closed()
    return int(shown["serialNumber"], 16)


def put(folder: Path, certificate: Certificate) -> tuple[Path, Path]:
    (folder / "cert.pem").write_bytes(certificate.chain)
    (folder / "key.pem").write_bytes(certificate.key)
    return folder / "cert.pem", folder / "key.pem"


async def test_a_new_certificate_is_shown_to_new_connections(tmp_path: Path, authority: Authority) -> None:
    first, second = authority.issue(), authority.issue()
    tls = Tls(*put(tmp_path, first))
    async with serving(tls) as port:
        assert await serial(port, authority.client_context()) == first.serial
        assert not tls.refresh()
        put(tmp_path, second)
        assert tls.refresh()
        assert await serial(port, authority.client_context()) == second.serial


async def test_files_that_do_not_belong_together_change_nothing(
    tmp_path: Path, authority: Authority, log: list[dict[str, object]]
) -> None:
    first, second = authority.issue(), authority.issue()
    certificate, key = put(tmp_path, first)
    tls = Tls(certificate, key)
    async with serving(tls) as port:
        for half in (second.chain, second.chain[:100], b"", b"no certificate"):
            certificate.write_bytes(half)
            assert not tls.refresh()
            assert not tls.refresh()
            assert await serial(port, authority.client_context()) == first.serial
        certificate.unlink()
        assert not tls.refresh()
        assert {entry["log_level"] for entry in log} == {"error"}
        assert len(log) == 5
        put(tmp_path, second)
        assert tls.refresh()
        assert await serial(port, authority.client_context()) == second.serial


async def test_old_versions_and_strangers_are_refused(tmp_path: Path, authority: Authority) -> None:
    tls = Tls(*put(tmp_path, authority.issue()))
    assert tls.context.minimum_version is ssl.TLSVersion.TLSv1_2
    async with serving(tls) as port:
        old = authority.client_context()
        with pytest.warns(DeprecationWarning, match="TLS"):
            old.minimum_version = ssl.TLSVersion.TLSv1
        with pytest.warns(DeprecationWarning, match="TLS"):
            old.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await serial(port, old)
        with pytest.raises(ssl.SSLCertVerificationError):
            await serial(port, Authority().client_context())
        twelve = authority.client_context()
        twelve.maximum_version = ssl.TLSVersion.TLSv1_2
        assert await serial(port, twelve) > 0


def test_files_that_cannot_be_used_stop_the_start(tmp_path: Path, authority: Authority) -> None:
    certificate, key = put(tmp_path, authority.issue())
    with pytest.raises(ConfigError, match="STARLING_TLS_CERTIFICATE"):
        Tls(tmp_path / "none.pem", key)
    with pytest.raises(ConfigError, match="STARLING_TLS_CERTIFICATE"):
        Tls(key, certificate)
    with pytest.raises(ConfigError, match="go together"):
        load(tls_certificate=certificate)


def test_a_key_with_a_password_is_refused_and_not_asked_for(tmp_path: Path, authority: Authority) -> None:
    issued = authority.issue()
    certificate, key = put(tmp_path, issued)
    key.write_bytes(
        issued.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"password"))
    )
    with pytest.raises(ConfigError, match="password"):
        Tls(certificate, key)
