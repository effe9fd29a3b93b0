"""How many connections there may be, and which of them get in when there are as many: those whose session is in."""

from __future__ import annotations

from collections.abc import Collection
from http import HTTPStatus

from server.auth import Refusal
from server.config import Settings
from server.connection import Connection
from server.inference.service import Inference
from server.quota import Identity
from server.registry import Registry

RETRY_AFTER_S = 5
"""What a refused client is asked to wait."""

SPARE_CONNECTIONS = 4
"""What a key may have open beyond two for each of its sessions: a broken connection is noticed late, and the one that
resumes its session must get in."""


class Admission:
    """Decides before the upgrade, when nothing of the client is known but its request.

    Args:
        settings: the limits.
        registry: the sessions of this process and, behind them, those in the store.
        inference: how late finals and partials are.
        connections: those that are open; the caller keeps them up to date.
    """

    def __init__(
        self, settings: Settings, registry: Registry, inference: Inference, connections: Collection[Connection]
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._inference = inference
        self._open = connections

    def why_full(self) -> Refusal | None:
        """Why no further session can be taken on, if so."""
        text = None
        if self._registry.is_draining:
            text = "the server is draining: connect to another one"
        elif len(self._open) >= self._settings.max_sessions:
            text = f"all {self._settings.max_sessions} sessions are taken: try again"
        elif self._is_late():
            text = "the speech models are overloaded: try again"
        return None if text is None else _unavailable(text)

    def _is_late(self) -> bool:
        """Partials give way to finals: where they come late, a few more streams would have the finals late too."""
        inference, settings = self._inference, self._settings
        if inference.final_delay > settings.max_final_delay_s:
            return True
        return inference.partial_delay > settings.max_partial_delay_s

    def may_return(self, session_id: str | None, *, unnamed: bool) -> bool:
        """Whether a full server takes a connection that continues a session, as far as can be told without the store.

        Args:
            session_id: the session that the client names before the upgrade.
            unnamed: whether a client that names none may be that of one of the sessions that are adrift here, which
                are few; it is not let begin a new one.
        """
        if self._registry.is_draining:
            return False
        if session_id is not None and len(self._open) < self._settings.max_sessions + self._settings.resume_reserve:
            return True
        undecided = sum(connection.must_resume and not connection.is_begun for connection in self._open)
        return unnamed and undecided < self._registry.adrift

    async def is_return(self, session_id: str | None, identity: Identity, *, unnamed: bool) -> bool:
        """As `may_return`, now that it is known whose the connection is: a session that is named must be in the store,
        so that strangers cannot fill the reserve."""
        is_known = session_id is not None and await self._registry.is_resumable(session_id, identity)
        return self.may_return(session_id if is_known else None, unnamed=unnamed)

    def has_too_many(self, identity: Identity) -> Refusal | None:
        """Why a key may not open one more connection, if so. Its sessions are counted when one begins."""
        if identity.max_sessions is None:
            return None
        limit = 2 * identity.max_sessions + SPARE_CONNECTIONS
        if sum(connection.identity.key_id == identity.key_id for connection in self._open) < limit:
            return None
        return _unavailable(f"this key has {limit} connections open: close some")


def _unavailable(text: str) -> Refusal:
    return Refusal(HTTPStatus.SERVICE_UNAVAILABLE, text, RETRY_AFTER_S)
