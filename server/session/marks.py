"""Control messages pinned to the audio: each takes effect at the input offset where it was received.

Marks beyond the acknowledged offset are stored with the session, so that a server that hears the same audio again
does the same at the same place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class LanguageMark:
    """Segments whose speech begins after `offset` are in `language`."""

    offset: int
    language: str


@dataclass(frozen=True, slots=True)
class FinalizeMark:
    """The open segment ends at `offset`."""

    offset: int
    id: str | None


@dataclass(frozen=True, slots=True)
class EndMark:
    """The audio ends at `offset`."""

    offset: int


@dataclass(frozen=True, slots=True)
class GapMark:
    """The audio from `offset` to `end` is missing."""

    offset: int
    end: int


Fence = FinalizeMark | GapMark | EndMark
"""Marks that the audio behind them has to wait for."""


def to_json(mark: LanguageMark | FinalizeMark) -> dict[str, Any]:
    """Plain values for the session store."""
    if isinstance(mark, LanguageMark):
        return {"type": "language", "offset": mark.offset, "language": mark.language}
    return {"type": "finalize", "offset": mark.offset, "id": mark.id}


def from_json(values: dict[str, Any]) -> LanguageMark | FinalizeMark:
    """The mark that `to_json` gave."""
    if values["type"] == "language":
        return LanguageMark(values["offset"], values["language"])
    return FinalizeMark(values["offset"], values["id"])
