"""A note beside files that they were checked, so that a second start need not read them all again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from launcher.wheels import check_hashes, sha256_of

STAMP = ".verified.json"


@dataclass(frozen=True, slots=True)
class Entry:
    """One checked file: its SHA-256, and the size and time of change it had then."""

    sha256: str
    size: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class Stamp:
    """What was checked.

    Attributes:
        recipe: what the files were made by; empty for published ones.
        files: file name to what it was.
    """

    recipe: str
    files: dict[str, Entry]

    @property
    def hashes(self) -> dict[str, str]:
        """File name to SHA-256."""
        return {name: entry.sha256 for name, entry in self.files.items()}


def is_verified(folder: Path, expected: Mapping[str, str] | None = None, *, recipe: str = "") -> bool:
    """Whether a folder still is what was checked when its stamp was written.

    Sizes and times of change are compared, not contents; `damaged_files` reads everything.

    Args:
        folder: a model's folder.
        expected: file name to SHA-256; None takes the stamp's own list.
        recipe: what the files were made by.
    """
    stamp = read_stamp(folder)
    if stamp is None or stamp.recipe != recipe or (expected is not None and stamp.hashes != dict(expected)):
        return False
    return all(_fingerprint(folder / name) == (entry.size, entry.mtime_ns) for name, entry in stamp.files.items())


def damaged_files(folder: Path) -> list[str] | None:
    """Reads every file of a model again and names those that changed; None when the model is not there."""
    stamp = read_stamp(folder)
    return None if stamp is None else check_hashes(folder, stamp.hashes)


def write_stamp(folder: Path, names: list[str], *, recipe: str = "") -> None:
    """Notes that these files are as they should be."""
    files = {}
    for name in sorted(names):
        size, mtime_ns = _fingerprint(folder / name)
        files[name] = Entry(sha256_of(folder / name), size, mtime_ns)
    temporary = folder / f"{STAMP}.new"
    temporary.write_text(json.dumps(asdict(Stamp(recipe, files)), indent=1))
    temporary.replace(folder / STAMP)


def read_stamp(folder: Path) -> Stamp | None:
    """The stamp of a folder, or None where it has none that can be read."""
    try:
        data = json.loads((folder / STAMP).read_text())
        return Stamp(data["recipe"], {name: Entry(**entry) for name, entry in data["files"].items()})
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def _fingerprint(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:
        return -1, -1
    return status.st_size, status.st_mtime_ns
