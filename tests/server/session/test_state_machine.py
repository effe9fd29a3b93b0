"""Anything a client, a network, a store and a model may do, in any order, step by step."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from server.session.settings import SessionSettings

from .driver import QUICK, Client, Control, Host, Script, undisturbed
from .strategies import ENCODINGS, RATES
from .world import GHOST, MURMUR, NOISE, SILENCE, WORDS, Sound

MAX_SOUND_S = 20


class Anything(RuleBasedStateMachine):
    """One client, whose script grows as it speaks, and one host. `Rules` holds every message against the protocol as it
    is sent; at the end the finals are those of an undisturbed run of the same script."""

    @initialize(
        rate=st.sampled_from(RATES),
        encoding=st.sampled_from(ENCODINGS),
        partials=st.booleans(),
        punctuate=st.booleans(),
        with_words=st.booleans(),
        repeats_all=st.booleans(),
    )
    def begin(
        self, rate: int, encoding: str, partials: bool, punctuate: bool, with_words: bool, repeats_all: bool
    ) -> None:
        chosen = SessionSettings(sample_rate=rate, encoding=encoding, partials=partials, punctuate=punctuate)
        self.script = Script(chosen, [], [])
        self.host = Host(chosen, QUICK, with_words=with_words)
        self.client = Client(self.script, self.host, repeats_all=repeats_all)
        self.names = 0
        self.has_ghosts = False

    # --- the client

    @rule(
        kind=st.sampled_from((*WORDS, SILENCE, SILENCE, SILENCE, NOISE, MURMUR, GHOST)),
        ms=st.sampled_from((30, 90, 250, 700, 2500)),
        frames=st.integers(1, 3),
    )
    def hear(self, kind: str, ms: int, frames: int) -> None:
        if len(self.script.samples) > MAX_SOUND_S * self.script.settings.sample_rate:
            return
        self.has_ghosts |= kind == GHOST
        self.script.add(Sound(kind, ms))
        size = (self.script.end_of_audio - self.client.cursor) // frames + 1
        while self.client.has_more:
            self.client.send(size)

    @rule()
    def finalize(self) -> None:
        self.names += 1
        self._say(Control(len(self.script.samples), "finalize", f"f{self.names}"))

    @rule(language=st.sampled_from(("en", "fr")))
    def speak(self, language: str) -> None:
        self._say(Control(len(self.script.samples), "language", language))

    def _say(self, control: Control) -> None:
        if len(self.script.controls) < 12:
            self.script.controls.append(control)
            self.client.todo.append(control)
            while self.client.has_more:
                self.client.send(4000)

    @rule()
    def read(self) -> None:
        self.client.read()

    # --- the network and the process

    @rule(
        crash=st.booleans(),
        applied=st.integers(0, 2),
        read=st.integers(0, 4),
        share=st.floats(0, 1),
    )
    def break_off(self, crash: bool, applied: int, read: int, share: float) -> None:
        self.client.read(read)
        if crash:
            self.host.crash(applied)
        stored = self.host.durable.state.acked
        at = max(self.client.acked, stored) if share > 0.5 else int(2 * share * min(self.client.acked, stored))
        self.client.resume(min(at, self.script.end_of_audio // self.script.width))
        while self.client.has_more:
            self.client.send(4000)

    # --- the parts behind

    @rule(pick=st.integers(0, 9))
    def answer(self, pick: int) -> None:
        actions = self.host.live.due()
        if actions:
            actions[pick % len(actions)]()

    @rule()
    def answer_everything(self) -> None:
        self.host.live.settle()

    @rule()
    def lose_partial(self) -> None:
        self.host.live.fail_partial()

    @invariant()
    def at_most_one_partial(self) -> None:
        if hasattr(self, "host"):
            live = self.host.live
            assert len([d for d in live.decodes if d.job in live.partial_jobs]) <= 1

    def teardown(self) -> None:
        if not hasattr(self, "host"):
            return
        self.script.controls.append(Control(len(self.script.samples), "end"))
        self.client.todo.append(self.script.controls[-1])
        while self.client.has_more:
            self.client.send(4000)
        self.host.live.settle()
        self.client.read()
        if not self.has_ghosts:
            self.client.check(undisturbed(self.script))


QUICKLY = settings(max_examples=60, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck))

TestAnything = Anything.TestCase
TestAnything.settings = QUICKLY


@pytest.mark.soak
class TestAnythingForLong(Anything.TestCase):  # type: ignore[misc,valid-type]
    settings = settings(QUICKLY, max_examples=2000, stateful_step_count=60)
