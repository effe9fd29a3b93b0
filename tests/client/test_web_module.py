"""The browser's modules without a browser: their own tests, in Node, where it is installed."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from launcher.paths import SOURCE_ROOT

NODE = shutil.which("node")
TESTS = sorted((SOURCE_ROOT / "tests" / "client" / "web").glob("*.test.mjs"))
MIN_VERSION = 20
"""The first with mock timers and a steady test runner."""


def _version() -> int:
    if NODE is None:
        return 0
    shown = subprocess.run([NODE, "--version"], capture_output=True, text=True, timeout=30, check=False).stdout
    found = re.match(r"v(\d+)", shown)
    return int(found[1]) if found else 0


@pytest.mark.skipif(_version() < MIN_VERSION, reason=f"Node {MIN_VERSION} or newer is not installed")
@pytest.mark.parametrize("file", TESTS, ids=lambda file: file.name.partition(".")[0])
def test_in_node(file: object) -> None:
    assert NODE is not None
    run = subprocess.run([NODE, "--test", str(file)], capture_output=True, text=True, timeout=300, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "# pass 0" not in run.stdout
