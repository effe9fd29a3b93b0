"""How much audio a key may send in a day, over all gateways that share the session store."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import structlog

from server.protocol.close import CloseCode, Closing
from session_store.base import SessionStore, StoreError

log = structlog.get_logger(__name__)

REPORT_INTERVAL_S = 2.0
"""How often what was received goes to the store: other gateways learn of it so late."""

REPORT_S = 30.0
"""Audio that is not left to wait for the next report."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who is asking, and what they may.

    Attributes:
        key_id: empty where no keys are asked for.
        max_sessions: concurrent sessions of the key, over all gateways; None is any number.
        max_audio_s: seconds of audio of the key in a UTC day; None is any amount.
    """

    key_id: str = ""
    max_sessions: int | None = None
    max_audio_s: float | None = None


@dataclass(slots=True)
class _Account:
    stored: float = 0.0
    """The day's total as the store last told it."""
    pending: float = 0.0
    """Received here and not yet told."""
    in_flight: float = 0.0
    """Being told."""

    @property
    def used(self) -> float:
        """As far as this process knows."""
        return self.stored + self.pending + self.in_flight


class AudioQuota:
    """Counts the audio of keys that have a limit.

    Within a process the limit is exact; what several processes receive in the same two seconds may pass it.
    """

    def __init__(self, store: SessionStore) -> None:
        self._store = store
        self._accounts: dict[str, _Account] = {}
        self._early = asyncio.Event()

    async def admit(self, identity: Identity) -> None:
        """Checks that a key has something left, before its connection begins; a store that is away stops nobody.

        Raises:
            Closing: it has not.
        """
        if identity.max_audio_s is None:
            return
        account = self._accounts.setdefault(identity.key_id, _Account())
        await self._report(identity.key_id, account)
        self._check(identity, account)

    def count(self, identity: Identity, seconds: float) -> None:
        """Takes audio that was received into account.

        Raises:
            Closing: the limit is passed with it.
        """
        if identity.max_audio_s is None:
            return
        account = self._accounts.setdefault(identity.key_id, _Account())
        account.pending += seconds
        if account.pending >= REPORT_S:
            self._early.set()
        self._check(identity, account)

    async def report(self) -> None:
        """Tells the store what has been received since the last time."""
        await asyncio.gather(
            *(self._report(key, account) for key, account in self._accounts.items() if account.pending)
        )

    async def run(self) -> None:
        """Reports for ever."""
        while True:
            try:
                async with asyncio.timeout(REPORT_INTERVAL_S):
                    await self._early.wait()
            except TimeoutError:
                pass
            self._early.clear()
            await self.report()

    async def _report(self, key_id: str, account: _Account) -> None:
        amount, account.pending = account.pending, 0.0
        account.in_flight += amount
        try:
            account.stored = await self._store.add_usage(key_id, amount)
        except StoreError as error:
            account.pending += amount
            log.warning("audio of a key not counted yet", key=key_id, error=str(error))
        finally:
            account.in_flight -= amount

    def _check(self, identity: Identity, account: _Account) -> None:
        assert identity.max_audio_s is not None
        if account.used >= identity.max_audio_s:
            hours = identity.max_audio_s / 3600
            text = f"this key has used its {hours:g} hours of audio for today: go on after midnight UTC"
            raise Closing(CloseCode.REVOKED, text)
