"""Fuzzing that is led by coverage, with atheris (libFuzzer).

    python -m tests.fuzz.run                       every target for 60 s
    python -m tests.fuzz.run codec --seconds 3600  one of them for an hour

atheris is installed, pinned, into a folder of its own at the first run. Inputs that led somewhere new are kept in the
state folder and are where the next run begins; one that breaks a target is written there, too, and named.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from launcher.paths import SOURCE_ROOT, Paths
from tests.fuzz.targets import SEEDS, TARGETS

REQUIREMENTS = SOURCE_ROOT / "requirements" / "fuzz.txt"
INSTALL_TIMEOUT_S = 600
SPARE_S = 120
"""Beyond the time a target may run for: start, end, and a loaded machine."""

HARNESS = """
import sys
import atheris
with atheris.instrument_imports(include=["server.protocol", "server.audio.codec", "server.session.settings"]):
    from tests.fuzz.targets import TARGETS
name, *options = sys.argv[1:]
atheris.Setup([name, *options], TARGETS[name])
atheris.Fuzz()
"""


def install(folder: Path) -> Path:
    """Puts atheris into `folder`, if it is not there; returns what goes onto PYTHONPATH."""
    target = folder / f"atheris-{sys.version_info.major}.{sys.version_info.minor}"
    done = target / ".complete"
    pinned = REQUIREMENTS.read_text()
    if not done.exists() or done.read_text() != pinned:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
        options = ["--only-binary=:all:", "--require-hashes", "--upgrade", "--target", str(target)]
        subprocess.run([*pip, *options, "-r", str(REQUIREMENTS)], check=True, timeout=INSTALL_TIMEOUT_S)
        done.write_text(pinned)
    return target


def fuzz(name: str, seconds: int, folder: Path) -> int:
    """Runs one target; the exit status, 0 where nothing broke it."""
    corpus, found = folder / "corpus" / name, folder / "found"
    corpus.mkdir(parents=True, exist_ok=True)
    found.mkdir(exist_ok=True)
    for number, seed in enumerate(SEEDS.get(name, ())):
        (corpus / f"seed-{number}").write_bytes(seed)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(SOURCE_ROOT), str(install(folder))])}
    options = [f"-max_total_time={seconds}", "-timeout=10", "-rss_limit_mb=1024", "-max_len=4096", "-verbosity=0"]
    command = [sys.executable, "-c", HARNESS, name, *options, "-print_final_stats=1"]
    artifacts = f"-artifact_prefix={found / name}-"
    return subprocess.run(
        [*command, artifacts, str(corpus)],
        env=environment,
        cwd=SOURCE_ROOT,
        timeout=seconds + SPARE_S,
        check=False,
    ).returncode


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the targets that are asked for, one after the other; 1 if one broke."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.run", description="Fuzzes parsers and codecs.")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)}; default: all")
    parser.add_argument("--seconds", type=int, default=60, help="for each target (default: 60)")
    args = parser.parse_args(argv)
    unknown = sorted(set(args.targets) - set(TARGETS))
    if unknown:
        parser.error(f"there is no target {unknown[0]!r}: choose of {', '.join(TARGETS)}")
    folder = Paths.from_environment().state / "fuzz"
    broken = []
    for name in args.targets or TARGETS:
        print(f"{name}: {args.seconds} s", file=sys.stderr, flush=True)
        if fuzz(name, args.seconds, folder) != 0:
            broken.append(name)
    for name in broken:
        print(f"{name} broke: the input is in {folder / 'found'}", file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
