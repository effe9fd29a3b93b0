"""One line of a terminal that is written over and over, with finished lines left above it."""

from __future__ import annotations

import shutil
import unicodedata
from typing import TextIO

CLEAR_LINE = "\r\x1b[2K"
DIM, PLAIN = "\x1b[2m", "\x1b[0m"


class LiveLine:
    """Prints finished lines, and on a terminal keeps one unfinished line below them."""

    def __init__(self, out: TextIO) -> None:
        """Write to `out`; where that is no terminal, only finished lines are printed."""
        self._out = out
        self._enabled = out.isatty()
        self._shown = ""

    def finish(self, text: str) -> None:
        """Print a line that stays."""
        self.clear()
        print(text, file=self._out, flush=True)

    def show(self, head: str, text: str) -> None:
        """Show an unfinished line, the end of `text` where it is too long for the terminal, `head` dim before it."""
        if not self._enabled:
            return
        room = shutil.get_terminal_size().columns - width(head) - 1
        line = f"{CLEAR_LINE}{DIM}{head}{PLAIN}{tail(text, room)}"
        if line != self._shown:
            self._out.write(line)
            self._out.flush()
            self._shown = line

    def clear(self) -> None:
        """Take the unfinished line away."""
        if self._shown:
            self._out.write(CLEAR_LINE)
            self._out.flush()
            self._shown = ""


def printable(text: str) -> str:
    """Return text without what could move the cursor or change the terminal: a server is not to be trusted so far."""
    return "".join(" " if unicodedata.category(char) in ("Cc", "Zl", "Zp") else char for char in text)


def width(text: str) -> int:
    """Return how many columns a text takes: wide East Asian characters two, combining marks none."""
    return sum(map(_columns, text))


def tail(text: str, room: int) -> str:
    """Return the end of a text that fits `room` columns, with an ellipsis where something was left out."""
    if width(text) <= room:
        return text
    used, start = 1, len(text)
    while start > 0 and used + _columns(text[start - 1]) <= room:
        start -= 1
        used += _columns(text[start])
    return "…" + text[start:] if room > 0 else ""


def _columns(char: str) -> int:
    if unicodedata.category(char) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1
