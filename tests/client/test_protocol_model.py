"""The client's core against a model server, over a network that breaks anywhere, in virtual time."""

from __future__ import annotations

import json
import random
from collections import deque

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from starling_client.errors import SessionError
from starling_client.events import Ack, Done, ErrorEvent, Event, Final, Finalized, Partial, Reconnected, SessionStarted
from starling_client.protocol import Phase, SessionProtocol
from starling_client.retry import Failed, Finished, Retry
from starling_client.settings import SAMPLE_BYTES, ResumePolicy, SessionSettings
from tests.client.model_server import Close, Connection, ModelServer

POLICY = ResumePolicy(max_frame_bytes=5, max_unacknowledged_s=40 / 8000, connect_timeout_s=1e9, reconnect_timeout_s=1e9)
LANGUAGES = ("en", "es", "fr")
Said = bytes | tuple[str, str]


def undisturbed(script: list[Said], settings: SessionSettings) -> list[tuple[str, float, float]]:
    """The finals of a session in which nothing breaks."""
    server = ModelServer()
    connection = server.connect()
    connection.receive(json.dumps({"type": "start", "encoding": settings.encoding, "sample_rate": 8000}))
    for said in script:
        if isinstance(said, bytes):
            connection.receive(said)
        else:
            kind, value = said
            connection.receive(json.dumps({"language": value} if kind == "language" else {"type": kind, "id": value}))
        while server.work():
            pass
    messages = [json.loads(frame) for frame in connection.outbox if isinstance(frame, str)]
    return [(m["text"], m["start"], m["end"]) for m in messages if m["type"] == "final"]


class BrokenNetwork(RuleBasedStateMachine):
    """Any order of speaking, sending, decoding, reading and breaking."""

    @initialize(encoding=st.sampled_from(sorted(SAMPLE_BYTES)))
    def begin(self, encoding: str) -> None:
        self.settings = SessionSettings(encoding=encoding, sample_rate=8000)
        self.now = 0.0
        self.client = SessionProtocol(self.settings, POLICY, now=0.0, rng=random.Random(1))
        self.server = ModelServer()
        self.connection: Connection | None = None
        self.upward: deque[str | bytes] = deque()
        self.script: list[Said] = []
        self.events: list[Event] = []
        self.finalizes: list[str] = []
        self.ended = False
        self.outcome: Finished | Failed | None = None
        self.connect()

    # The user.

    @precondition(lambda self: not self.ended and self.outcome is None)
    @rule(data=st.data(), length=st.integers(1, 40))
    def speak(self, data: st.DataObject, length: int) -> None:
        # Mostly runs of letters and of silence, cut in the middle of samples: the encoding's bytes come as they may.
        quiet = data.draw(st.booleans())
        audio = bytes(length) if quiet else data.draw(st.binary(min_size=length, max_size=length))
        taken = self.client.write_audio(audio)
        if taken:
            self.script.append(audio[:taken])

    @precondition(lambda self: not self.ended and self.outcome is None)
    @rule()
    def finalize(self) -> None:
        identifier = f"f{len(self.finalizes)}"
        self.client.finalize(identifier)
        self.finalizes.append(identifier)
        self.script.append(("finalize", identifier))

    @precondition(lambda self: not self.ended and self.outcome is None)
    @rule(language=st.sampled_from(LANGUAGES))
    def change_language(self, language: str) -> None:
        self.client.set_language(language)
        self.script.append(("language", language))

    @precondition(lambda self: not self.ended and self.outcome is None and len(self.script) > 20)
    @rule()
    def end(self) -> None:
        self.client.end()
        self.script.append(("end", ""))
        self.ended = True

    # The world.

    @precondition(lambda self: self.connection is not None)
    @rule(count=st.integers(1, 20))
    def send(self, count: int) -> None:
        for _ in range(count):
            frame = self.client.next_frame()
            if frame is None:
                return
            self.upward.append(frame)

    @precondition(lambda self: self.upward and self.connection is not None)
    @rule(count=st.integers(1, 20))
    def arrive(self, count: int) -> None:
        assert self.connection is not None
        for _ in range(min(count, len(self.upward))):
            self.connection.receive(self.upward.popleft())

    @rule(count=st.integers(1, 3))
    def decode(self, count: int) -> None:
        for _ in range(count):
            self.server.work()

    @precondition(lambda self: self.connection is not None)
    @rule(count=st.integers(1, 20))
    def read(self, count: int) -> None:
        for _ in range(count):
            if self.connection is None or not self.connection.outbox:
                return
            frame = self.connection.outbox.popleft()
            if isinstance(frame, Close):
                self.lose(frame.code, frame.reason)
            else:
                self.events.extend(self.client.receive(frame))

    @precondition(lambda self: self.connection is not None)
    @rule(arriving=st.integers(0, 10), dies=st.booleans())
    def break_connection(self, arriving: int, dies: bool) -> None:
        if dies:
            self.server.restart()
            assert self.connection is not None
            self.connection.closed = True
        else:
            self.arrive(arriving)
        self.lose(1006, "")

    @precondition(lambda self: self.connection is not None)
    @rule(code=st.sampled_from((1001, 1011, 1013, 4031, 4104)))
    def server_closes(self, code: int) -> None:
        assert self.connection is not None
        self.connection.close(code, "a reason", retry_after_ms=100)

    @precondition(lambda self: self.connection is None and self.outcome is None)
    @rule()
    def connect(self) -> None:
        self.connection = self.server.connect()
        self.client.connection_opened()

    def lose(self, code: int, reason: str) -> None:
        assert self.connection is not None
        self.connection.lose()
        self.connection = None
        self.upward.clear()
        verdict = self.client.connection_lost(code, reason, self.now)
        if isinstance(verdict, Retry):
            self.now += verdict.delay_s
            return
        self.outcome = verdict
        if isinstance(verdict, Finished) and verdict.done is not None:
            self.events.append(verdict.done)

    # What always holds.

    @invariant()
    def nothing_comes_twice_or_out_of_order(self) -> None:
        seqs = [event.seq for event in self.events if isinstance(event, Final)]
        assert seqs == list(range(len(seqs)))
        acks = [event.audio_offset for event in self.events if isinstance(event, Ack)]
        assert acks == sorted(set(acks))
        answers = [event.id for event in self.events if isinstance(event, Finalized)]
        assert len(answers) == len(set(answers))
        told = [event for event in self.events if not isinstance(event, ErrorEvent)]
        assert all(isinstance(event, SessionStarted) == (place == 0) for place, event in enumerate(told))

    @invariant()
    def partials_come_before_their_final(self) -> None:
        newest = -1
        for event in self.events:
            if isinstance(event, Final):
                newest = event.seq
            elif isinstance(event, Partial):
                assert event.seq > newest
            elif isinstance(event, Reconnected):
                assert event.gap_samples == 0

    def teardown(self) -> None:
        if not hasattr(self, "client"):
            return
        if not self.ended and self.outcome is None:
            self.end()
        for _ in range(10_000):
            if self.outcome is not None:
                break
            if self.connection is None:
                self.connect()
            self.send(20)
            self.arrive(20)
            self.decode(3)
            self.read(20)
        self.check_outcome()

    def check_outcome(self) -> None:
        expected = undisturbed(self.script, self.settings)
        finals = [(e.text, e.start, e.end) for e in self.events if isinstance(e, Final)]
        if isinstance(self.outcome, Failed):
            # The connection broke between the end and its answer, and the server has forgotten the session by then.
            assert isinstance(self.outcome.error, SessionError)
            assert self.outcome.error.code == 4004
            assert finals == expected[: len(finals)]
            assert self.client.phase is Phase.FAILED
            return
        assert isinstance(self.outcome, Finished), "the session did not come to its end"
        assert finals == expected
        assert isinstance(self.events[-1], Done)
        answered = [event.id for event in self.events if isinstance(event, Finalized)]
        if self.outcome.done is None:
            assert answered == self.finalizes


BrokenNetwork.TestCase.settings = settings(
    max_examples=15, stateful_step_count=60, deadline=None, suppress_health_check=list(HealthCheck)
)
TestBrokenNetwork = BrokenNetwork.TestCase
