"""The news that speech models are out of reach, and that all of them are back."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

log = logging.getLogger(__name__)

NEWS_DELAY_S = 0.1
"""Models that are lost with one Triton are told of together."""


class News:
    """Tells listeners whether all is well: once at first, then when that changes, and for every further loss."""

    def __init__(self, is_well: Callable[[], bool]) -> None:
        """`is_well` is asked at the moment of telling."""
        self._is_well = is_well
        self._listeners: list[Callable[[bool], None]] = []
        self._told: bool | None = None
        self._is_loss = False
        """A model has lost its last Triton since the listeners were told."""
        self._timer: asyncio.TimerHandle | None = None

    def listen(self, callback: Callable[[bool], None]) -> None:
        """Has `callback` called with what is told."""
        self._listeners.append(callback)

    def turned(self, *, is_loss: bool) -> None:
        """A model has lost its last Triton, or has one again: told in a moment. Before the first `tell` it is not."""
        if self._told is None:
            return
        self._is_loss |= is_loss
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(NEWS_DELAY_S, self.tell)

    def tell(self) -> None:
        """Tells the listeners, unless there was nothing but a recovery that leaves another model out of reach."""
        self._timer = None
        is_well, is_loss, self._is_loss = self._is_well(), self._is_loss, False
        if (self._told and is_well) or (self._told is False and not is_well and not is_loss):
            return
        self._told = is_well
        for callback in self._listeners:
            try:
                callback(is_well)
            except Exception:
                log.exception("a listener failed to take the news of the models' health")

    def close(self) -> None:
        """Drops what was to be told in a moment."""
        if self._timer is not None:
            self._timer.cancel()
