"""Dockerfiles, read as far as the tests need."""

from __future__ import annotations

import fnmatch
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from launcher.paths import SOURCE_ROOT


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction: its stage, its name and the rest of the line, continuations joined."""

    stage: str
    name: str
    text: str


def read(path: Path) -> list[Instruction]:
    """All instructions, comments left out."""
    lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
    found: list[Instruction] = []
    stage = ""
    for line in re.sub(r"\\\n", " ", "\n".join(lines)).splitlines():
        name, _, text = line.strip().partition(" ")
        if not name:
            continue
        if name == "FROM":
            stage = text.rpartition(" AS ")[2]
        found.append(Instruction(stage, name, " ".join(text.split())))
    return found


def copies(instructions: list[Instruction], stage: str | None = None) -> list[tuple[str, str]]:
    """Source and target of what is copied out of the checkout."""
    pairs = []
    for item in instructions:
        words = shlex.split(item.text)
        if item.name == "COPY" and not words[0].startswith("--from=") and stage in (None, item.stage):
            pairs += [(source, words[-1]) for source in words[:-1]]
    return pairs


def environment(instructions: list[Instruction], stage: str) -> dict[str, str]:
    """What a stage sets by ENV."""
    words = [
        word for item in instructions if (item.stage, item.name) == (stage, "ENV") for word in shlex.split(item.text)
    ]
    return dict(word.split("=", 1) for word in words)


def passes_dockerignore(path: str) -> bool:
    """Whether a file of the checkout reaches the build."""
    passes = True
    for line in (SOURCE_ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.strip()
        if not pattern or pattern.startswith("#"):
            continue
        keeps = pattern.startswith("!")
        pattern = pattern.removeprefix("!")
        names = [pattern, pattern.removesuffix("/**") + "/*"] if pattern.endswith("/**") else [pattern]
        if any(
            fnmatch.fnmatch(path, name.removeprefix("**/"))
            or (fnmatch.fnmatch(path, f"*/{name.removeprefix('**/')}") and name.startswith("**/"))
            for name in names
        ):
            passes = keeps
    return passes
