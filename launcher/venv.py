"""Virtual environments filled from locked requirements with plain pip."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from launcher.errors import LauncherError
from launcher.progress import Reporter
from launcher.wheels import pip_error

CREATE_TIMEOUT_S = 300.0
INSTALL_TIMEOUT_S = 1800.0


def create_venv(root: Path, python: Path) -> None:
    """Makes a virtual environment with pip in it.

    Raises:
        LauncherError: this Python cannot; says what to install.
    """
    made = subprocess.run(
        [str(python), "-m", "venv", "--clear", str(root)],
        capture_output=True,
        text=True,
        timeout=CREATE_TIMEOUT_S,
        check=False,
    )
    if made.returncode == 0:
        return
    # Half of one would pass for a whole one the next time.
    shutil.rmtree(root, ignore_errors=True)
    output = made.stdout + made.stderr
    if "ensurepip" in output or "No module named venv" in output:
        raise LauncherError(
            "this Python cannot make virtual environments", "apt-get install python3-venv, then run this again"
        )
    last = output.strip().splitlines()[-1:] or ["python -m venv failed"]
    raise LauncherError(f"{root} could not be made", last[0])


def has_pip(python: Path) -> bool:
    """Whether an environment is there and whole enough to install into."""
    try:
        run = subprocess.run([str(python), "-m", "pip", "--version"], capture_output=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return run.returncode == 0


def install_locked(python: Path, locks: Sequence[Path], what: str, reporter: Reporter) -> None:
    """Installs exactly what the lock files name, each package checked against its hashes.

    Args:
        python: the environment's interpreter.
        locks: requirements files with hashes, complete: nothing else is fetched.
        what: the packages' collective name, for messages.
        reporter: told about every download.

    Raises:
        LauncherError: pip failed.
    """
    command = ["install", "--no-deps", "--require-hashes", "--only-binary=:all:"]
    run_pip(python, [*command, *(word for lock in locks for word in ("-r", str(lock)))], what, reporter)


def run_pip(python: Path, arguments: Sequence[str], what: str, reporter: Reporter) -> None:
    """Runs pip and passes on what it downloads.

    Raises:
        LauncherError: pip failed, with what it said last.
    """
    command = [
        str(python),
        "-m",
        "pip",
        *arguments,
        "--no-input",
        "--disable-pip-version-check",
        "--progress-bar",
        "off",
    ]
    # Root's pip warns about itself, and a PIP_TARGET or PIP_USER of the shell would install elsewhere.
    environment = {
        key: value for key, value in os.environ.items() if key not in {"PIP_TARGET", "PIP_USER", "PYTHONPATH"}
    }
    output: list[str] = []
    with subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                output.append(line)
                if line.lstrip().startswith("Downloading"):
                    reporter.step(line.strip())
                elif line.startswith("Installing collected packages"):
                    reporter.step(f"installing {what} ({line.count(',') + 1} packages)")
            code = process.wait(INSTALL_TIMEOUT_S)
        except BaseException:
            process.kill()
            raise
    if code != 0:
        raise pip_error(what, "".join(output))
