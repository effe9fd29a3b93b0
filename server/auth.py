"""Who may connect: keys and origins, checked before the upgrade."""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus

from websockets.http11 import Request

from server.config import Settings
from server.registry import Identity


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer in place of the upgrade."""

    status: HTTPStatus
    text: str
    retry_after_s: int | None = None


class Access:
    """Checks requests against the settings."""

    def __init__(self, settings: Settings) -> None:
        self._origins = frozenset(settings.allowed_origins)

    @property
    def has_keys(self) -> bool:
        """Whether keys are asked for."""
        return False

    def check(self, request: Request) -> Identity | Refusal:
        """Who sends this request, or why it is refused."""
        origin = request.headers.get("Origin")
        if origin is not None and not self._is_allowed(origin, request.headers.get("Host", "")):
            return Refusal(
                HTTPStatus.FORBIDDEN,
                f"origin {origin} is not allowed: add it to STARLING_ALLOWED_ORIGINS on the server",
            )
        return Identity()

    def _is_allowed(self, origin: str, host: str) -> bool:
        same = origin.partition("://")[2] == host
        return same or origin in self._origins or "*" in self._origins
