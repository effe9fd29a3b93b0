from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from launcher.lock import file_lock
from launcher.paths import SOURCE_ROOT, Paths
from launcher.setup import Installation

DEADLINE_S = 300.0


def _run(module: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=SOURCE_ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


def test_a_second_set_up_needs_no_network(installation: Installation) -> None:
    # pip could get nothing: it knows no index.
    run = _run("launcher.setup", PIP_NO_INDEX="1", PIP_CONFIG_FILE="/dev/null", PIP_FIND_LINKS="")

    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines() == [
        f"[set-up] ready: models in {installation.paths.models}, Triton in {installation.triton.root}"
    ]


def test_what_a_killed_set_up_left_is_removed(installation: Installation) -> None:
    leftover = installation.paths.downloads / "tmp-killed"
    leftover.mkdir(parents=True)
    (leftover / "big.whl").touch()

    assert _run("launcher.setup").returncode == 0

    assert not leftover.exists()


def test_two_set_ups_take_turns(installation: Installation) -> None:
    paths = installation.paths
    with file_lock(paths.setup_lock, timeout_s=DEADLINE_S, busy="another set-up is running"):
        process = subprocess.Popen(
            [sys.executable, "-m", "launcher.setup"], cwd=SOURCE_ROOT, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        waiting = process.stdout.readline()
        assert waiting == f"[set-up] another set-up is running (process {os.getpid()}); waiting for it\n"
    rest, _ = process.communicate(timeout=DEADLINE_S)

    assert process.returncode == 0
    assert rest.startswith("[set-up] ready: ")


def test_a_cache_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    run = _run("launcher.setup", STARLING_CACHE_DIR=str(tmp_path / "file" / "cache"))

    assert run.returncode == 1
    assert len(run.stderr.splitlines()) == 1
    assert run.stderr.startswith("starling: ")
    assert str(tmp_path / "file") in run.stderr


def test_no_network_on_the_first_set_up_is_one_line(tmp_path: Path) -> None:
    no_network = {"PIP_INDEX_URL": "http://127.0.0.1:1/simple", "PIP_CONFIG_FILE": "/dev/null", "PIP_RETRIES": "1"}
    no_cache = {"PIP_NO_CACHE_DIR": "1", "PIP_FIND_LINKS": "", "PIP_EXTRA_INDEX_URL": ""}

    run = _run("launcher.setup", STARLING_CACHE_DIR=str(tmp_path / "cache"), **no_network, **no_cache)

    assert run.returncode == 1
    assert run.stderr.splitlines() == [
        "starling: Triton's packages could not be downloaded: check the network and pip's index settings, "
        "then run this again"
    ]


def test_an_old_python_is_told_by_the_bootstrap() -> None:
    code = "import sys, runpy; sys.version_info = (3, 9, 2); runpy.run_module('launcher.bootstrap')"
    run = subprocess.run([sys.executable, "-c", code], cwd=SOURCE_ROOT, capture_output=True, text=True, check=False)

    assert run.returncode == 1
    assert run.stderr == (
        "starling: Python 3.11 or newer is needed, this is 3.9: install one, then run `make PYTHON=python3.11 ...`\n"
    )


def test_folders_come_from_the_environment(tmp_path: Path) -> None:
    paths = Paths.from_environment({"STARLING_CACHE_DIR": str(tmp_path), "STARLING_STATE_DIR": "~/state"})
    assert paths.models == tmp_path / "models"
    assert paths.state == Path.home() / "state"
    assert Paths.from_environment({}).cache == Path.home() / ".cache" / "starling"
