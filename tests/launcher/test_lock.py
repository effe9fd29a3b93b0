from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from launcher.errors import LauncherError
from launcher.lock import file_lock

HOLD = """
import sys
from pathlib import Path
from launcher.lock import file_lock
with file_lock(Path(sys.argv[1]), timeout_s=0, busy="busy"):
    print("held", flush=True)
    sys.stdin.read()
"""


def _holder(lock: Path) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(lock)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    return process


def test_the_second_one_is_told_who_holds_it(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with _holder(lock) as holder:
        with (
            pytest.raises(LauncherError, match=rf"another set-up is running \(process {holder.pid}\)"),
            file_lock(lock, timeout_s=0, busy="another set-up is running"),
        ):
            pass
        holder.communicate(timeout=30)


def test_it_is_free_when_its_holder_is_killed(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    waited: list[str] = []
    with _holder(lock) as holder:

        def on_wait(message: str) -> None:
            waited.append(message)
            holder.kill()

        with file_lock(lock, timeout_s=30, busy="another set-up is running", on_wait=on_wait):
            assert len(waited) == 1
            assert f"process {holder.pid}" in waited[0]
