"""A clock for stores on one machine: UNIX seconds that neither jump nor differ between processes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def boot_id() -> str:
    """A name for this start of the machine; empty where the system tells none (then `uptime` is no common clock)."""
    try:
        return _BOOT_ID.read_text("ascii").strip()
    except OSError:
        return ""


def uptime() -> float:
    """Seconds since the machine started, suspended time included: the same for every process, whatever the date."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


@dataclass(frozen=True, slots=True)
class Epoch:
    """What processes must agree on: at `uptime` seconds after the start called `boot`, it was `unix` o'clock."""

    boot: str
    uptime: float
    unix: float


class HostClock:
    """Reads UNIX seconds as an agreed epoch plus the uptime since, so that setting the date moves nothing.

    The epoch is kept in the store's own file. One from an earlier start of the machine is replaced; time goes on
    from the last time seen then or from the present date, whichever is later. Where the system gives no boot id,
    the date itself is the clock.

    Args:
        boot: name of this start of the machine.
        uptime: seconds since then.
        date: UNIX seconds as the system has them, right or wrong.
    """

    def __init__(
        self,
        *,
        boot: str | None = None,
        uptime: Callable[[], float] = uptime,
        date: Callable[[], float] = time.time,
    ) -> None:
        self._boot = boot_id() if boot is None else boot
        self._uptime = uptime
        self._date = date
        self._epoch: Epoch | None = None

    def agree(self, stored: Epoch | None, last_seen: float) -> Epoch | None:
        """Adopts the stored epoch if it is of this start of the machine; otherwise returns a new one to be stored.

        Args:
            stored: the epoch in the store.
            last_seen: the latest time that the store knows of; the new epoch does not begin before it.
        """
        if stored is not None and stored.boot == self._boot and self._boot:
            self._epoch = stored
            return None
        self._epoch = Epoch(self._boot, self._uptime(), max(self._date(), last_seen))
        return self._epoch

    def now(self) -> float:
        """UNIX seconds; `agree` must have been called."""
        if self._epoch is None or not self._boot:
            return self._date()
        return self._epoch.unix + self._uptime() - self._epoch.uptime
