"""A wall clock that a test sets, for real programs: libfaketime between them and the system's."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path

_LIBRARY = Path("vendor", "libfaketime", "src", "libfaketime.so.1")


class WallClock:
    """Seconds ahead of the true time, or behind it; programs that run with `environment` see each jump at once.

    The monotonic clocks, by which programs measure how long something takes, stay as they are.

    Args:
        folder: for the file that the programs read it from.
    """

    def __init__(self, folder: Path) -> None:
        spec = importlib.util.find_spec("libfaketime")
        assert spec is not None
        assert spec.origin is not None
        self._library = Path(spec.origin).parent / _LIBRARY
        self._file = folder / "wall-clock"
        self.jump_to(0)

    @property
    def environment(self) -> Mapping[str, str]:
        """Variables for a program that is to go by this clock."""
        return {
            # libc's own allocator: another, as Redis has one, asks for the time before the library can tell it.
            "LD_PRELOAD": f"{self._library} libc.so.6",
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }

    def jump_to(self, seconds: int) -> None:
        """Sets the clock so far ahead of the true time; negative for behind it."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{seconds:+d}")
        new.rename(self._file)  # never half written
