"""The same audio gives the same finals, whatever else happens."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .driver import QUICK, Client, Host, Script, Shell, undisturbed
from .strategies import scripts

QUICKLY = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
DEEPLY = settings(QUICKLY, max_examples=3000)

MAX_FRAME = 9000


def some_answers(shell: Shell, chance: random.Random) -> None:
    """Answers a few of the things asked, by chance, and loses partials now and then."""
    while (actions := shell.due()) and chance.random() < 0.8:
        if chance.random() < 0.1 and shell.fail_partial():
            continue
        chance.choice(actions)()


def disturbed(said: Script, chance: random.Random, *, group: int = 1, with_words: bool = True) -> Client:
    """Frames cut anywhere, answers in any order and late, partials lost."""
    policy = replace(QUICK, vad_group=group)
    client = Client(said, Host(said.settings, policy, with_words=with_words))
    while client.has_more:
        client.send(chance.choice((1, 7, 320, 641, 1500, MAX_FRAME)))
        some_answers(client.host.live, chance)
        client.read()
    client.host.live.settle(chance)
    client.read()
    return client


def check(said: Script, seed: int, group: int) -> None:
    chance = random.Random(seed)
    disturbed(said, chance, group=group, with_words=bool(seed % 2)).check(undisturbed(said))


@QUICKLY
@given(scripts(), st.integers(0, 2**32), st.sampled_from((1, 1, 4)))
def test_cuts_delays_order_and_lost_partials_change_no_final(said: Script, seed: int, group: int) -> None:
    check(said, seed, group)


@pytest.mark.soak
@DEEPLY
@given(scripts(), st.integers(0, 2**32), st.sampled_from((1, 1, 4)))
def test_no_final_ever_changes(said: Script, seed: int, group: int) -> None:
    check(said, seed, group)
