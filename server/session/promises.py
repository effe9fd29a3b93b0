"""What a session owes its client, in the order in which it is owed.

Finals, answers to `finalize`, acknowledgements and the `done` at the end come out in the order of the audio, whatever
order the decodes come back in.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from server.session.segment import Segment
from session_store.base import Final


class Stage(Enum):
    """How far a closed segment has come."""

    DECODING = "decoding"
    PUNCTUATING = "punctuating"
    STORING = "storing"


@dataclass(slots=True)
class OwedFinal:
    """A closed segment whose final is due."""

    segment: Segment
    audio_s: float
    stage: Stage = Stage.DECODING
    final: Final | None = None
    number: int = 0
    """The punctuation job or the store ticket that is awaited."""

    @property
    def will_come(self) -> bool | None:
        """Whether there will be a final, as a segment in which nothing was said has none; None while that is open."""
        if self.segment.promised or self.stage is not Stage.DECODING:
            return True
        if not self.segment.is_decoded:
            return None
        if self.segment.says_something:
            return True
        # Partials of it are out that are still to be taken back, under the seq that would be the next one's.
        return None if self.segment.shown else False


@dataclass(frozen=True, slots=True)
class OwedAck:
    """Silence up to an input offset, to be acknowledged."""

    audio_offset: int


@dataclass(frozen=True, slots=True)
class OwedFinalized:
    """The answer to a `finalize`."""

    id: str | None
    audio_offset: int


@dataclass(frozen=True, slots=True)
class OwedDone:
    """The answer to `end`."""

    audio_offset: int


Promise = OwedFinal | OwedAck | OwedFinalized | OwedDone
