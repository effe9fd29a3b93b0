"""Drives sessions without I/O and without a clock: answers come when, in what order and whether the test says so.

`Shell` carries out one session's commands, `Host` is a server with a store that outlives its sessions, `Client` says
something and resumes as the protocol asks of it. `Rules` holds whatever a session sends against the protocol.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

import numpy as np
from numpy.typing import NDArray

from server.session.commands import (
    Cancel,
    Command,
    Decode,
    DetectVoice,
    DropPartial,
    Finish,
    Punctuate,
    Send,
    Store,
    WantPartial,
)
from server.session.messages import (
    Ack,
    Done,
    Error,
    Finalized,
    Message,
    Partial,
    SpeechEnded,
    SpeechStarted,
)
from server.session.session import Session
from server.session.settings import Policy, SessionSettings
from server.session.text import bare
from session_store.base import Final, SessionState

from . import world

QUICK = Policy(
    pre_roll_windows=4,
    quiet_windows=3,
    max_segment_s=2.0,
    cut_search_s=0.6,
    idle_windows=20,
    hop_windows=2,
    first_hop_windows=3,
    trim_after_s=0.8,
    trim_keep_s=0.2,
)
"""The rules of the default policy in less time."""


@dataclass
class Durable:
    """What a crash leaves behind."""

    state: SessionState
    finals: dict[int, Final] = field(default_factory=dict)
    deleted: bool = False

    def apply(self, command: Store | Finish) -> None:
        if isinstance(command, Finish):
            self.deleted = True
            return
        if command.final is not None:
            assert self.finals.get(command.final.seq, command.final) == command.final, "two finals for one seq"
            self.finals[command.final.seq] = command.final
        assert command.state.acked >= self.state.acked, "the stored offset went back"
        assert command.state.next_seq >= self.state.next_seq
        self.state = command.state


class Rules:
    """What every session keeps to, whatever happens to it. Told of every message; raises on the first wrong one."""

    def __init__(self, session: Session, durable: Durable) -> None:
        self._session = session
        self._durable = durable
        self._next_seq = session.next_seq
        self._speaking = False
        self._shown: tuple[int, str] = (-1, "")
        self._stable: dict[int, tuple[float, str]] = {}
        """By seq: where its partials say that the segment starts, and what they promised."""
        self._end_s = 0.0
        self.acked = session.state().acked
        self.is_done = False

    def reattached(self) -> None:
        """A new connection has seen no partial, and perhaps no `done`."""
        self._shown = (-1, "")
        self._stable.clear()
        self.is_done = False

    def observe(self, message: Message) -> None:
        assert not self.is_done, f"after done: {message}"
        match message:
            case SpeechStarted():
                assert not self._speaking
                self._speaking = True
            case SpeechEnded():
                assert self._speaking
                self._speaking = False
            case Partial():
                self._partial(message)
            case Final():
                self._final(message)
            case Ack():
                assert self.acked < message.audio_offset <= self._session.received
                self.acked = message.audio_offset
            case Done():
                assert message.segments == self._next_seq
                assert message.audio_offset == self._session.received
                assert message.audio_seconds == self._session.audio_seconds
                self.is_done = True
            case Finalized():
                assert message.audio_offset <= self._session.received

    def _partial(self, message: Partial) -> None:
        assert self._session.settings.partials
        assert self._next_seq <= message.seq, "a partial of a final that was sent"
        assert (message.seq, message.text) != self._shown
        assert self._speaking or not message.text, "a partial in silence"
        assert message.text == bare(message.text) == message.text.lower()
        assert 0 <= message.stable <= len(message.text)
        assert message.start <= message.end
        start, stable = self._stable.get(message.seq, (message.start, ""))
        assert message.start == start, "two segments under one seq"
        assert message.stable >= len(stable)
        assert message.text.startswith(stable)
        self._shown = (message.seq, message.text)
        if message.text:
            self._stable[message.seq] = (message.start, message.text[: message.stable])
        else:
            self._stable.pop(message.seq, None)

    def _final(self, final: Final) -> None:
        assert final.seq == self._next_seq
        assert self._durable.finals.get(final.seq) == final, "a final that is not stored"
        assert self._end_s <= final.start + 0.0011
        assert final.start <= final.end
        self._next_seq += 1
        start, _ = self._stable.pop(final.seq, (final.start, ""))
        assert abs(start - final.start) < 0.0011, "the partials under a seq were of another segment than its final"
        self._end_s = final.end


class Shell:
    """Does what a session wants when it is told to."""

    def __init__(self, session: Session, durable: Durable, *, with_words: bool = True) -> None:
        self.session = session
        self.durable = durable
        self.rules = Rules(session, durable)
        self.now = 0.0
        self.detections: list[DetectVoice] = []
        self.decodes: list[Decode] = []
        self.punctuations: list[Punctuate] = []
        self.stores: deque[Store | Finish] = deque()
        self.applied: list[Store] = []
        self.partial_jobs: set[int] = set()
        self.partial_windows: list[Decode] = []
        self.wants_partial = False
        self.wire: list[Message] = []
        self.log: list[Command] = []
        self._with_words = with_words

    def do(self, commands: Sequence[Command]) -> None:
        """Takes commands; nothing is answered yet."""
        self.now += 0.001
        self.log.extend(commands)
        for command in commands:
            match command:
                case Send():
                    assert command.since is None or command.since <= self.now
                    self.rules.observe(command.message)
                    self.wire.append(command.message)
                case DetectVoice():
                    assert all(other.epoch < command.epoch for other in self.detections)
                    assert len(command.samples) > 0
                    self.detections.append(command)
                case Decode():
                    self.decodes.append(command)
                case WantPartial():
                    assert not self.wants_partial
                    assert command.since <= self.now
                    self.wants_partial = True
                case DropPartial():
                    assert self.wants_partial
                    self.wants_partial = False
                case Cancel():
                    [cancelled] = [decode for decode in self.decodes if decode.job == command.job]
                    self.decodes.remove(cancelled)
                case Punctuate():
                    self.punctuations.append(command)
                case Store() | Finish():
                    self.stores.append(command)

    def audio(self, data: bytes) -> None:
        self.do(self.session.audio(data, self.now))

    def detect(self, index: int = 0) -> None:
        """Answers a request for voice activity."""
        request = self.detections.pop(index)
        probabilities, state = world.detect(request.state, request.samples)
        self.do(self.session.voice(request.epoch, probabilities, state, self.now))

    def take_partial(self) -> None:
        """There is room for the partial that was wanted."""
        self.wants_partial = False
        decode = self.session.take_partial(self.now)
        if decode is not None:
            assert not self.partial_jobs & {other.job for other in self.decodes}, "two partials at once"
            self.partial_jobs.add(decode.job)
            self.partial_windows.append(decode)
            self.decodes.append(decode)

    def decode(self, index: int = 0) -> None:
        """Answers a decode."""
        request = self.decodes.pop(index)
        found = world.decode(request.audio, request.language, with_words=self._with_words)
        self.do(self.session.hypothesis(request.job, found, self.now))

    def fail_decode(self, index: int = 0, reason: str = "no model") -> None:
        """A decode cannot be had."""
        self.do(self.session.decode_failed(self.decodes.pop(index).job, reason, self.now))

    def punctuate(self, index: int = 0, *, fails: bool = False) -> None:
        """Answers a request for marks."""
        request = self.punctuations.pop(index)
        text = None if fails else world.punctuate(request.text, request.context, request.language)
        self.do(self.session.punctuated(request.job, text, self.now))

    def apply_store(self) -> None:
        """The oldest write becomes safe; the session does not know yet."""
        command = self.stores.popleft()
        self.durable.apply(command)
        if isinstance(command, Store):
            self.applied.append(command)

    def answer_store(self, index: int = 0) -> None:
        """The session hears of a write that is safe."""
        self.do(self.session.stored(self.applied.pop(index).ticket, self.now))

    def due(self, *, store_is_away: bool = False) -> list[Callable[[], None]]:
        """All answers that could come now, in any order; writes become safe one after the other."""
        return [
            *(partial(self.detect, i) for i in range(len(self.detections))),
            *(partial(self.decode, i) for i in range(len(self.decodes))),
            *(partial(self.punctuate, i) for i in range(len(self.punctuations))),
            *([self.apply_store] if self.stores and not store_is_away else []),
            *(partial(self.answer_store, i) for i in range(len(self.applied))),
            *([self.take_partial] if self.wants_partial else []),
        ]

    def fail_partial(self) -> bool:
        """Loses the partial that is under way; false if there is none."""
        for index, decode in enumerate(self.decodes):
            if decode.job in self.partial_jobs:
                self.fail_decode(index)
                return True
        return False

    def settle(self, chance: random.Random | None = None, *, store_is_away: bool = False) -> None:
        """Answers until nothing is asked: at once and in order, or by chance."""
        while actions := self.due(store_is_away=store_is_away):
            (chance.choice(actions) if chance else actions[0])()

    def partials(self) -> list[Partial]:
        return [c.message for c in self.log if isinstance(c, Send) and isinstance(c.message, Partial)]

    def finals(self) -> list[Final]:
        return [c.message for c in self.log if isinstance(c, Send) and isinstance(c.message, Final)]

    def sent(self, *kinds: type) -> list[Message]:
        """Messages sent so far of the kinds given, of all kinds if none."""
        messages = [c.message for c in self.log if isinstance(c, Send)]
        return [m for m in messages if not kinds or isinstance(m, kinds)]


def begin(
    settings: SessionSettings | None = None,
    policy: Policy = QUICK,
    *,
    policies: Mapping[str, Policy] | None = None,
    with_words: bool = True,
    **state: object,
) -> Shell:
    """A fresh session under a shell."""
    chosen = settings or SessionSettings()
    first = replace(SessionState("s", b"", settings=chosen.to_json()), **state)  # type: ignore[arg-type]
    durable = Durable(first)
    return Shell(Session(first, chosen, policy, policies=policies or {}), durable, with_words=with_words)


@dataclass(frozen=True)
class Control:
    """A control message said after `offset` samples; `kind` is finalize, language or end."""

    offset: int
    kind: str
    value: str = ""


@dataclass
class Script:
    """All that a client says: samples at the session's rate and controls in order; the last one is the end."""

    settings: SessionSettings
    sounds: list[world.Sound]
    controls: list[Control]

    @cached_property
    def samples(self) -> NDArray[np.int16]:
        return world.render(self.sounds, self.settings.sample_rate)

    def add(self, sound: world.Sound) -> None:
        """Goes on with another sound."""
        self.sounds.append(sound)
        self.__dict__.pop("samples", None)
        self.__dict__.pop("audio", None)

    @property
    def end_of_audio(self) -> int:
        """Bytes of all audio."""
        return len(self.audio)

    @property
    def width(self) -> int:
        return world.sample_width(self.settings.encoding)

    @cached_property
    def audio(self) -> bytes:
        return world.encode(self.samples, self.settings.encoding)


def script(
    settings: SessionSettings, sounds: Sequence[world.Sound], controls: Sequence[tuple[float, str, str]] = ()
) -> Script:
    """A script of sounds and of controls at shares 0 to 1 of them; the end is added."""
    length = len(world.render(sounds, settings.sample_rate))
    said = [Control(int(share * length), kind, value) for share, kind, value in sorted(controls)]
    return Script(settings, list(sounds), [*said, Control(length, "end")])


class Host:
    """A server and its store: the session may be thrown away and comes back from what is stored."""

    def __init__(self, settings: SessionSettings, policy: Policy, *, with_words: bool = True) -> None:
        self._policy = policy
        self._with_words = with_words
        self.durable = Durable(SessionState("s", b"", settings=settings.to_json()))
        self.shell: Shell | None = Shell(Session(self.durable.state, settings, policy), self.durable)
        self._sent_upto = -1

    @property
    def live(self) -> Shell:
        assert self.shell is not None
        return self.shell

    def crash(self, applied: int) -> None:
        """The process dies; up to `applied` of the writes under way still reach the store."""
        for command in list(self.live.stores)[:applied]:
            if isinstance(command, Store):
                self.durable.apply(command)
        self.shell = None

    def resume(self, from_offset: int, last_seq: int) -> list[Message]:
        """A new connection; returns the replay. Its next sample wanted is `live.session.received`."""
        if self.shell is None:
            settings = SessionSettings.from_json(self.durable.state.settings)
            session = Session(self.durable.state, settings, self._policy, from_offset=from_offset)
            self.shell = Shell(session, self.durable, with_words=self._with_words)
        else:
            self.shell.wire.clear()
            self.shell.rules.reattached()
            self.shell.do(self.shell.session.reattach(from_offset, self.shell.now))
        replay = [final for seq, final in sorted(self.durable.finals.items()) if seq > last_seq]
        self._sent_upto = max(self.durable.finals, default=-1)
        return list(replay)

    def wire(self) -> list[Message]:
        """What has been sent on the connection since the last look."""
        messages, self.live.wire = self.live.wire, []
        fresh = [m for m in messages if not (isinstance(m, Final) and m.seq <= self._sent_upto)]
        self._sent_upto = max([self._sent_upto, *(m.seq for m in fresh if isinstance(m, Final))])
        return fresh


class Client:
    """Says a script over any number of connections, and checks what it is told over all of them."""

    def __init__(self, said: Script, host: Host, *, repeats_all: bool = False) -> None:
        """On a resume it says all controls behind the offset again, or only those that the server may not have."""
        self.script = said
        self.host = host
        self._repeats_all = repeats_all
        self.acked = 0
        self.finals: list[Final] = []
        self.answered: set[str] = set()
        self.errors: list[Error] = []
        self.done: Done | None = None
        self.acks: list[tuple[int, int]] = []
        """Every acknowledgement, with the number of finals stored when it was read."""
        self.finalized: list[tuple[int, int]] = []
        """Every answer to a finalize: offset, with the number of finals held when it was read."""
        self.cursor = 0
        self.todo = deque(said.controls)

    @property
    def has_more(self) -> bool:
        return bool(self.todo) or self.cursor < self.script.end_of_audio

    def send(self, size: int) -> None:
        """Sends the next control, or up to `size` bytes of audio."""
        shell, width = self.host.live, self.script.width
        until = self.todo[0].offset * width if self.todo else self.script.end_of_audio
        if self.todo and until <= self.cursor:
            self._control(self.todo.popleft())
        else:
            stop = min(self.cursor + size, until)
            shell.audio(self.script.audio[self.cursor : stop])
            self.cursor = stop

    def _control(self, control: Control) -> None:
        shell = self.host.live
        match control.kind:
            case "finalize":
                shell.do(shell.session.finalize(control.value, shell.now))
            case "language":
                shell.do(shell.session.set_language(control.value))
            case _:
                shell.do(shell.session.end(shell.now))

    def resume(self, from_offset: int) -> None:
        """Connects again."""
        for message in self.host.resume(from_offset, len(self.finals) - 1):
            self._read(message)
        wanted = self.host.live.session.received
        self.cursor = from_offset * self.script.width
        if self._repeats_all:
            self.todo = deque(c for c in self.script.controls if c.offset >= from_offset)
            return
        # As the Python client does it: what lies before the offset wanted was heard, but for the language.
        before = [c.value for c in self.script.controls if c.kind == "language" and c.offset < wanted]
        language = Control(wanted, "language", before[-1] if before else self.script.settings.language)
        open_ = (c for c in self.script.controls if c.offset >= wanted and c.value not in self.answered)
        self.todo = deque([language, *open_])

    def read(self, limit: int | None = None) -> None:
        """Reads what has come; beyond `limit` messages it is lost."""
        for message in self.host.wire()[:limit]:
            self._read(message)

    def _read(self, message: Message) -> None:
        match message:
            case Final():
                assert message.seq == len(self.finals), "one missing, or one twice"
                self.finals.append(message)
            case Ack():
                self.acks.append((message.audio_offset, len(self.host.durable.finals)))
                self.acked = max(self.acked, message.audio_offset)
            case Finalized():
                self.finalized.append((message.audio_offset, len(self.finals)))
                if message.id is not None:
                    self.answered.add(message.id)
            case Error():
                self.errors.append(message)
            case Done():
                self.done = message

    def check(self, expected: Sequence[Final]) -> None:
        """Holds all that was heard against the finals of an undisturbed run."""
        rate = self.script.settings.sample_rate
        assert list(self.host.durable.finals.values()) == self.finals
        assert spoken(self.finals) == spoken(expected)
        if not self.script.settings.partials:
            assert self.finals == list(expected)
        for offset, stored in self.acks:
            assert sum((final.start + 0.001) * rate < offset for final in self.finals) <= stored, "acked, not stored"
        for offset, held in self.finalized:
            # What the resampler still held and the window being filled are heard a little later.
            assert sum((final.end + 0.05) * rate < offset for final in self.finals) <= held, "finalized, no final"
        assert self.done is not None
        assert self.done.segments == len(self.finals)
        assert self.host.durable.deleted


def spoken(finals: Sequence[Final]) -> list[Final]:
    """Finals with text, counted anew. An empty one takes back what partials promised, and those depend on chance."""
    return [replace(final, seq=seq) for seq, final in enumerate(final for final in finals if final.text)]


def undisturbed(said: Script, policy: Policy = QUICK, *, with_words: bool = True) -> list[Final]:
    """The finals of one connection on which everything is answered at once."""
    client = Client(said, Host(said.settings, policy, with_words=with_words))
    while client.has_more:
        client.send(said.settings.sample_rate // 50 * said.width)
        client.host.live.settle()
    client.read()
    assert client.done is not None
    return client.finals
