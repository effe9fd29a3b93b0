"""The client's core against a model server, over a network that breaks anywhere, in virtual time."""

from __future__ import annotations

import json
import random
from collections import deque
from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st

from starling_client.errors import SessionError
from starling_client.events import Ack, Done, ErrorEvent, Event, Final, Finalized, Partial, Reconnected, SessionStarted
from starling_client.protocol import Phase, SessionProtocol
from starling_client.retry import Failed, Finished, Retry
from starling_client.settings import SAMPLE_BYTES, ResumePolicy, SessionSettings
from tests.client.model_server import Close, Connection, ModelServer

POLICY = ResumePolicy(
    max_frame_bytes=5, max_unacknowledged_s=200 / 8000, connect_timeout_s=1e9, reconnect_timeout_s=1e9
)
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


class BrokenNetwork:
    """A user, a client, a server and a network between them that breaks anywhere; each step is drawn at random."""

    def __init__(self, rng: random.Random, encoding: str, trouble: int) -> None:
        self.rng = rng
        self.trouble = trouble
        self.settings = SessionSettings(encoding=encoding, sample_rate=8000)
        self.now = 0.0
        self.client = SessionProtocol(self.settings, POLICY, now=0.0, rng=rng)
        self.server = ModelServer()
        self.connection: Connection | None = None
        self.upward: deque[str | bytes] = deque()
        self.script: list[Said] = []
        self.events: list[Event] = []
        self.finalizes: list[str] = []
        self.outcome: Finished | Failed | None = None

    def run(self, steps: int) -> None:
        user = [(self.speak, 30), (self.finalize, 4), (self.change_language, 4)]
        world = [(self.send, 40), (self.arrive, 40), (self.decode, 15), (self.read, 30)]
        faults = [(self.break_connection, self.trouble), (self.server_closes, self.trouble), (self.kill, self.trouble)]
        self.play(user + world + faults, steps)
        if self.outcome is None:
            self.client.end()
            self.script.append(("end", ""))
        self.play(world + [(fault, weight // 2) for fault, weight in faults], steps // 10)
        for _ in range(10_000):
            self.play(world, 10)
            if self.outcome is not None:
                break
        self.check_outcome()

    def play(self, moves: list[tuple[Callable[[], None], int]], steps: int) -> None:
        steps_taken = self.rng.choices([move for move, _ in moves], [weight for _, weight in moves], k=steps)
        for step in steps_taken:
            if self.outcome is not None:
                return
            if self.connection is None:
                self.connection = self.server.connect()
                self.client.connection_opened()
            step()
            self.check_events()

    # The user.

    def speak(self) -> None:
        width = self.settings.sample_bytes
        letters = bytes(self.rng.choice((0, 1, 7)) for _ in range(self.rng.randint(0, 9) * width))
        audio = letters + bytes(self.rng.randint(0, 4 * width))
        taken = self.client.write_audio(audio)
        if taken:
            self.script.append(audio[:taken])

    def finalize(self) -> None:
        identifier = f"f{len(self.finalizes)}"
        self.client.finalize(identifier)
        self.finalizes.append(identifier)
        self.script.append(("finalize", identifier))

    def change_language(self) -> None:
        language = self.rng.choice(LANGUAGES)
        self.client.set_language(language)
        self.script.append(("language", language))

    # The world.

    def send(self) -> None:
        for _ in range(self.rng.randint(1, 6)):
            frame = self.client.next_frame()
            if frame is None:
                return
            self.upward.append(frame)

    def arrive(self) -> None:
        assert self.connection is not None
        for _ in range(min(self.rng.randint(1, 6), len(self.upward))):
            self.connection.receive(self.upward.popleft())

    def decode(self) -> None:
        self.server.work()

    def read(self) -> None:
        for _ in range(self.rng.randint(1, 6)):
            if self.connection is None or not self.connection.outbox:
                return
            frame = self.connection.outbox.popleft()
            if isinstance(frame, Close):
                self.lose(frame.code, frame.reason)
            else:
                self.events.extend(self.client.receive(frame))

    def break_connection(self) -> None:
        if self.rng.random() < 0.5:
            self.arrive()
        self.lose(1006, "")

    def kill(self) -> None:
        assert self.connection is not None
        self.server.restart()
        self.lose(1006, "")

    def server_closes(self) -> None:
        assert self.connection is not None
        self.connection.close(self.rng.choice((1001, 1011, 1013, 4031, 4104)), "a reason", retry_after_ms=100)

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

    # What holds.

    def check_events(self) -> None:
        seqs = [event.seq for event in self.events if isinstance(event, Final)]
        assert seqs == list(range(len(seqs)))
        acks = [event.audio_offset for event in self.events if isinstance(event, Ack)]
        assert acks == sorted(set(acks))
        answers = [event.id for event in self.events if isinstance(event, Finalized)]
        assert len(answers) == len(set(answers))
        told = [event for event in self.events if not isinstance(event, ErrorEvent)]
        assert all(isinstance(event, SessionStarted) == (place == 0) for place, event in enumerate(told))

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
        self.check_order()
        assert isinstance(self.events[-1], Done)
        answered = [event.id for event in self.events if isinstance(event, Finalized)]
        if self.outcome.done is None:
            assert answered == self.finalizes

    def check_order(self) -> None:
        newest, finalized = -1, 0
        for event in self.events:
            if isinstance(event, Final):
                newest = event.seq
                assert round(event.start * 8000) >= finalized
            elif isinstance(event, Partial):
                assert event.seq > newest
            elif isinstance(event, Reconnected):
                assert event.gap_samples == 0
            elif isinstance(event, Finalized):
                finalized = max(finalized, event.audio_offset)


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32), encoding=st.sampled_from(sorted(SAMPLE_BYTES)), trouble=st.sampled_from((0, 1, 4)))
def test_finals_are_those_of_an_undisturbed_session(seed: int, encoding: str, trouble: int) -> None:
    BrokenNetwork(random.Random(seed), encoding, trouble).run(steps=250)
