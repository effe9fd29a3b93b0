"""What the user said that the server may still need: audio and controls, in the order in which they were said.

All positions are **bytes** since the session's first byte, because a control may fall in the middle of a sample and
has to be sent there again. Offsets of the protocol are samples: they enter and leave through `sample_bytes`.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Literal

from starling_client import messages


@dataclass(slots=True, eq=False)
class Control:
    """A control said after `position` bytes of audio."""

    kind: Literal["finalize", "language", "end"]
    position: int
    value: str = ""
    answered: bool = False

    def frame(self) -> str:
        """Return the control as a text frame."""
        match self.kind:
            case "finalize":
                return messages.finalize(self.value)
            case "language":
                return messages.language(self.value)
            case "end":
                return messages.END


class Journal:
    """Audio and controls from the last acknowledged sample on, with a cursor for what the connection has taken."""

    def __init__(self, sample_bytes: int, limit_bytes: int) -> None:
        """Keep at most `limit_bytes` of audio."""
        self._sample_bytes = sample_bytes
        self._limit = limit_bytes
        self._audio = bytearray()
        self._base = 0
        self._cursor = 0
        self._acknowledged = 0
        self._controls: list[Control] = []
        self._unsent: deque[Control] = deque()
        self._language_before: str | None = None
        self._language_changed = False
        self.ended = False

    @property
    def tail(self) -> int:
        """Bytes said so far."""
        return self._base + len(self._audio)

    @property
    def cursor(self) -> int:
        """Bytes that the current connection has taken."""
        return self._cursor

    @property
    def acknowledged(self) -> int:
        """Bytes that the server acknowledged."""
        return self._acknowledged

    @property
    def room(self) -> int:
        """Bytes that may be added now."""
        return max(0, self._limit - len(self._audio))

    @property
    def control_count(self) -> int:
        """Controls that may have to be sent again."""
        return len(self._controls)

    @property
    def pending_finalizes(self) -> list[Control]:
        """The finalizes without an answer, oldest first."""
        return [control for control in self._controls if control.kind == "finalize" and not control.answered]

    def append(self, data: bytes | memoryview) -> int:
        """Add as much of `data` as there is room for; return how many bytes that was."""
        taken = min(len(data), self.room)
        self._audio += data[:taken]
        return taken

    def add(self, kind: Literal["finalize", "language", "end"], value: str = "") -> None:
        """Add a control at the present end of the audio."""
        control = Control(kind, self.tail, value)
        self._controls.append(control)
        self._unsent.append(control)
        self._language_changed |= kind == "language"
        self.ended |= kind == "end"

    def next_frame(self, max_bytes: int) -> str | bytes | None:
        """Return what the connection is to send next and move the cursor past it; None when all was taken."""
        until = self.tail
        if self._unsent:
            until = self._unsent[0].position
            if until <= self._cursor:
                return self._unsent.popleft().frame()
        if self._cursor >= until:
            return None
        first = self._cursor - self._base
        frame = bytes(self._audio[first : first + min(max_bytes, until - self._cursor)])
        self._cursor += len(frame)
        self._forget()
        return frame

    def acknowledge(self, offset: int) -> bool:
        """Note that the server needs nothing before sample `offset`; return whether that was news."""
        position = offset * self._sample_bytes
        if position <= self._acknowledged:
            return False
        self._acknowledged = position
        self._forget()
        return True

    def rewind_to_start(self) -> None:
        """Begin a session that no server knows of yet: all of it is to be sent."""
        self._cursor = self._base
        self._unsent = deque(self._controls)

    def rewind(self) -> int:
        """Begin a resumed connection; return the sample offset to resume from.

        What the last connection did not get sent although it was acknowledged (a server that kept the session alive may
        do so while it is being resent) is dropped here.
        """
        self._cursor = self._acknowledged
        self._forget()
        return self._base // self._sample_bytes

    def replay_controls(self, wanted_offset: int, first_language: str) -> None:
        """Choose the controls to be sent again once the server said that it wants sample `wanted_offset` next.

        A control before that sample was handled: the server took audio that came after it. The language is told again
        as it is at that sample, because a server that starts afresh may know only an older or a later one.
        """
        wanted = wanted_offset * self._sample_bytes
        self._unsent = deque(c for c in self._controls if c.position >= wanted and not c.answered)
        if self._language_changed:
            before = [c.value for c in self._controls if c.kind == "language" and c.position < wanted]
            current = before[-1] if before else self._language_before or first_language
            self._unsent.appendleft(Control("language", wanted, current))

    def unanswered_until(self, identifier: str) -> list[Control]:
        """Return the awaited finalizes up to the named one, which is the last; empty where it is not awaited."""
        pending = self.pending_finalizes
        for count, control in enumerate(pending, start=1):
            if control.value == identifier:
                return pending[:count]
        return []

    def settled_finalizes(self) -> list[Control]:
        """Return the finalizes that were handled, by the acknowledgement, though their answer was lost."""
        return [c for c in self.pending_finalizes if c.position <= self._acknowledged and c not in self._unsent]

    def _forget(self) -> None:
        # The connection announced where it starts and the server counts from there: what was acknowledged in the
        # meantime still has to be sent before it may be forgotten.
        until = min(self._acknowledged, self._cursor, self.tail)
        if until > self._base:
            del self._audio[: until - self._base]
            self._base = until
        self._forget_controls()

    def _forget_controls(self) -> None:
        kept = []
        for control in self._controls:
            if control.position >= self._base or (control.kind == "finalize" and not control.answered):
                kept.append(control)
            elif control.kind == "language":
                self._language_before = control.value
        self._controls = kept
