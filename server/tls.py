"""TLS by certificate files, read again whenever they change: renewing a certificate needs no restart."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import structlog

from server.config import ConfigError
from server.keys import FileMark

log = structlog.get_logger(__name__)

CHECK_INTERVAL_S = 2.0


class Tls:
    """A server's TLS, version 1.2 or newer.

    Args:
        certificate: PEM file with the certificate and those between it and the root.
        key: PEM file with its private key, without a password.

    Raises:
        ConfigError: the files cannot be read or do not belong together.
    """

    def __init__(self, certificate: Path, key: Path | None) -> None:
        self._certificate = certificate.expanduser()
        self._key = (key or certificate).expanduser()
        self._marks = self._look()
        self.context = _new_context()
        try:
            self._load(self.context)
        except (ssl.SSLError, OSError) as error:
            raise ConfigError(
                f"the TLS certificate {self._certificate} and its key {self._key} cannot be used ({_reason(error)}): "
                "STARLING_TLS_CERTIFICATE and STARLING_TLS_KEY must be PEM files that belong together"
            ) from None

    def refresh(self) -> bool:
        """Takes over files that have changed, for connections from now on; returns whether it did.

        Files that do not belong together (yet) leave the certificate as it is, and are logged.
        """
        marks = self._look()
        if marks == self._marks:
            return False
        self._marks = marks
        try:
            # First into a context that nobody uses: a failure half way would leave a certificate without its key.
            self._load(_new_context())
            self._load(self.context)
        except (ssl.SSLError, OSError) as error:
            log.error("TLS certificate not taken over: the one before it goes on", reason=_reason(error))
            return False
        log.info("TLS certificate read", file=str(self._certificate))
        return True

    async def watch(self) -> None:
        """Follows the files for ever."""
        while True:
            await asyncio.sleep(CHECK_INTERVAL_S)
            self.refresh()

    def _look(self) -> tuple[FileMark, FileMark]:
        return FileMark.of(self._certificate), FileMark.of(self._key)

    def _load(self, context: ssl.SSLContext) -> None:
        context.load_cert_chain(self._certificate, self._key, password=_no_password)


def _new_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.set_alpn_protocols(["http/1.1"])
    return context


def _no_password() -> str:
    """Without this OpenSSL asks on the terminal, and a server without one hangs."""
    raise OSError("the private key has a password: store it without one, readable by the server only")


def _reason(error: ssl.SSLError | OSError) -> str:
    return getattr(error, "reason", None) or error.strerror or str(error)
