"""The control messages of a session, and the settings that hold because of them."""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable
from dataclasses import replace
from operator import attrgetter
from typing import Any

from server.session.marks import Fence, FinalizeMark, LanguageMark, from_json, to_json
from server.session.settings import SessionSettings

MAX_MARKS = 64
"""Control messages that may wait for their audio to be processed, and as many for their answer."""


class TooManyMarksError(Exception):
    """The client sends control messages faster than its audio is processed."""

    def __init__(self) -> None:
        super().__init__(f"more than {MAX_MARKS} control messages wait for their audio: send fewer")


class Controls:
    """Marks, which are kept until the audio behind them is acknowledged, and fences, which the audio waits for.

    All offsets are input offsets. A finalize is both: its mark is stored, so that its fence can be put up again.
    """

    def __init__(self, settings: SessionSettings, stored: Iterable[dict[str, Any]], acked: int) -> None:
        """Goes on from the `stored` marks of a session that is acknowledged up to `acked`."""
        self.settings = settings
        """What holds from the acknowledged offset on, up to the first mark that changes it."""
        self._marks: list[LanguageMark | FinalizeMark] = list(map(from_json, stored))
        self._fences: list[Fence] = [m for m in self._marks if isinstance(m, FinalizeMark) and m.offset > acked]
        self.forget(acked)

    # --- marks

    def settings_before(self, offset: int) -> SessionSettings:
        """The settings for speech that begins before `offset`."""
        languages = [m.language for m in self._marks if isinstance(m, LanguageMark) and m.offset < offset]
        return self.settings.with_language(languages[-1]) if languages else self.settings

    def detect(self, language: str) -> None:
        """Notes the language that was found in a session whose language is ``auto``."""
        self.settings = replace(self.settings, detected=language)

    def set_language(self, mark: LanguageMark) -> bool:
        """Takes a change of language; false where the language is that one already.

        Raises:
            TooManyMarksError: nothing was taken.
        """
        if mark.language == self.settings_before(mark.offset + 1).language:
            return False
        self._add(mark)
        return True

    def finalize(self, mark: FinalizeMark) -> bool:
        """Takes a finalize and puts up its fence; false where the mark is known.

        Raises:
            TooManyMarksError: nothing was taken.
        """
        # Said again on a new connection it is known, and answered once more if the answer was given already.
        is_new = mark not in self._marks
        if is_new:
            self._add(mark)
        if mark.id is None or not self.is_ahead(mark):
            self.put_up(mark)
        return is_new

    def forget(self, acked: int) -> None:
        """The audio up to `acked` is acknowledged: what its marks said is said by the settings from now on."""
        self.settings = self.settings_before(acked + 1)
        self._marks = [mark for mark in self._marks if mark.offset > acked]

    def to_json(self, acked: int) -> tuple[dict[str, Any], ...]:
        """The marks behind `acked`, for the session store."""
        return tuple(to_json(mark) for mark in self._marks if mark.offset > acked)

    def _add(self, mark: LanguageMark | FinalizeMark) -> None:
        if max(len(self._marks), len(self._fences)) >= MAX_MARKS:
            raise TooManyMarksError
        insort(self._marks, mark, key=attrgetter("offset"))

    # --- fences

    @property
    def fence(self) -> Fence | None:
        """The next one that the audio has to wait for."""
        return self._fences[0] if self._fences else None

    def is_ahead(self, fence: Fence) -> bool:
        """It is up: not all audio before it has been judged."""
        return fence in self._fences

    def put_up(self, fence: Fence) -> None:
        """The audio behind `fence` waits until `take_down`."""
        insort(self._fences, fence, key=attrgetter("offset"))

    def take_down(self) -> None:
        """All audio before the next fence has been judged."""
        del self._fences[0]
