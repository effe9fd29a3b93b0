"""The one kind of error that set-up and supervision show to people."""

from __future__ import annotations


class LauncherError(Exception):
    """Something that the reader can put right: one line that says what is wrong and what to do.

    Attributes:
        problem: what is wrong, without a full stop.
        remedy: what to do about it; may be empty.
    """

    def __init__(self, problem: str, remedy: str = "") -> None:
        self.problem = problem
        self.remedy = remedy
        super().__init__(f"{problem}: {remedy}" if remedy else problem)
