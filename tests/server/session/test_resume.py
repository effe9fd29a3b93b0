"""A session that breaks anywhere and is resumed gives what an undisturbed one gives."""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .driver import QUICK, Client, Host, Script, undisturbed
from .strategies import scripts
from .test_same_finals import MAX_FRAME, some_answers

QUICKLY = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
DEEPLY = settings(QUICKLY, max_examples=3000)


def break_off(client: Client, chance: random.Random, *, crash: bool) -> None:
    """The connection breaks, some of what was sent is lost with it, perhaps the server dies too."""
    client.read(chance.randrange(6))
    if crash:
        client.host.crash(chance.randrange(3))
    # From the last acknowledgement seen, or from the stored offset, or from anywhere before either.
    stored = client.host.durable.state.acked
    at = chance.choice((client.acked, stored, chance.randint(0, max(0, min(stored, client.acked)))))
    client.resume(at)


def survives(said: Script, seed: int) -> None:
    chance = random.Random(seed)
    expected = undisturbed(said)
    client = Client(said, Host(said.settings, QUICK), repeats_all=chance.random() < 0.5)
    breaks = chance.randrange(1, 8)
    while not client.host.durable.deleted:
        if client.has_more:
            client.send(chance.choice((7, 320, 1500, MAX_FRAME)))
            some_answers(client.host.live, chance)
        else:
            chance.choice(client.host.live.due())()
        if chance.random() < 0.7:
            client.read()
        if breaks and not client.host.durable.deleted and chance.random() < 0.15:
            breaks -= 1
            break_off(client, chance, crash=chance.random() < 0.6)
    client.read()
    client.check(expected)


@QUICKLY
@given(scripts(), st.integers(0, 2**32))
def test_a_crash_or_a_broken_connection_changes_no_final(said: Script, seed: int) -> None:
    survives(said, seed)


@pytest.mark.soak
@DEEPLY
@given(scripts(), st.integers(0, 2**32))
def test_no_crash_ever_changes_a_final(said: Script, seed: int) -> None:
    survives(said, seed)
