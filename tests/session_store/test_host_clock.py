from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from session_store.base import Expired, SessionState
from session_store.host_clock import Epoch, HostClock, boot_id, uptime
from session_store.memory import MemorySessionStore
from session_store.sqlite import SqliteSessionStore

STATE = SessionState("s", hashlib.sha256(b"token").digest())


@dataclass
class Machine:
    """A machine whose clocks the test sets: the store takes them as arguments."""

    boot: str = "boot-1"
    up: float = 1000.0
    unix: float = 1_800_000_000.0

    def clock(self) -> HostClock:
        return HostClock(boot=self.boot, uptime=lambda: self.up, date=lambda: self.unix)

    def wait(self, seconds: float) -> None:
        self.up += seconds
        self.unix += seconds

    def restart(self, seconds: float) -> None:
        self.boot += "+"
        self.up = 0.0
        self.unix += seconds


def test_the_real_clocks() -> None:
    assert uptime() > 0
    assert boot_id() == boot_id()
    clock = HostClock()
    epoch = clock.agree(None, 0.0)
    assert epoch is not None
    again = HostClock()
    assert again.agree(epoch, 0.0) is None
    assert abs(again.now() - clock.now()) < 5


def test_a_date_that_jumps_moves_nothing() -> None:
    machine = Machine()
    clock = machine.clock()
    clock.agree(None, 0.0)
    before = clock.now()
    machine.unix -= 1e6
    assert clock.now() == before
    machine.wait(5)
    assert clock.now() == before + 5


def test_processes_agree_whatever_the_date_was_when_they_started() -> None:
    machine = Machine()
    one = machine.clock()
    epoch = one.agree(None, 0.0)
    machine.unix += 1e6
    two = machine.clock()
    assert two.agree(epoch, 0.0) is None
    assert two.now() == one.now()


def test_after_a_restart_time_goes_on_and_never_back() -> None:
    machine = Machine()
    clock = machine.clock()
    epoch = clock.agree(None, 0.0)
    machine.wait(100)
    last = clock.now()
    machine.restart(-1e6)
    clock = machine.clock()
    assert clock.agree(epoch, last) == Epoch("boot-1+", 0.0, last)
    machine.wait(1)
    assert clock.now() == last + 1


def test_without_a_boot_id_the_date_is_the_clock() -> None:
    machine = Machine(boot="")
    clock = machine.clock()
    clock.agree(Epoch("", 5.0, 7.0), 0.0)
    assert clock.now() == machine.unix


async def test_sqlite_sessions_live_through_a_jump(tmp_path: Path) -> None:
    machine = Machine()
    store = SqliteSessionStore(tmp_path / "s.sqlite", clock=machine.clock())
    await store.create(STATE, owner="a", ttl_s=60)
    for jump in (1e6, -1e7):
        machine.unix += jump
        other = SqliteSessionStore(tmp_path / "s.sqlite", clock=machine.clock())
        assert await other.peek("s") == STATE
        assert await other.expired(10) == []
        await other.close()
    machine.wait(61)
    assert await store.peek("s") == Expired(STATE.token_hash, "")
    await store.close()


async def test_sqlite_sessions_live_through_a_restart_of_the_machine(tmp_path: Path) -> None:
    machine = Machine()
    for expected in (None, STATE, STATE):
        store = SqliteSessionStore(tmp_path / "s.sqlite", clock=machine.clock())
        assert await store.peek("s") == expected
        if expected is None:
            await store.create(STATE, owner="a", ttl_s=600)
        await store.close()
        machine.restart(200)


async def test_tombstones_go_after_a_day(tmp_path: Path) -> None:
    machine = Machine()
    for store in (
        SqliteSessionStore(tmp_path / "s.sqlite", clock=machine.clock()),
        MemorySessionStore(clock=lambda: machine.up),
    ):
        fence = await store.create(STATE, owner="a", ttl_s=60)
        await store.delete("s", fence=fence)
        machine.wait(23 * 3600)
        await store.expired(10)
        await store.create(SessionState("t", STATE.token_hash), owner="a", ttl_s=60)
        assert isinstance(await store.peek("s"), Expired)
        machine.wait(2 * 3600)
        await store.expired(10)
        await store.create(SessionState("u", STATE.token_hash), owner="a", ttl_s=60)
        assert await store.peek("s") is None
        await store.close()
