"""The Python examples of docs/clients.md, run as they stand there."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.client.live_server import LiveServer, serving

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "clients.md").read_text(encoding="utf-8")
EXAMPLES = {
    match[1]: match[2] for match in re.finditer(r"```python\n# example: ([\w ]+)\n(.*?)```", PAGE, flags=re.DOTALL)
}


@pytest.fixture
async def server() -> AsyncIterator[LiveServer]:
    async with serving() as running:
        yield running


def test_the_page_has_the_examples_that_are_run_here() -> None:
    assert set(EXAMPLES) == {"python", "python blocking", "plain websockets"}
    assert all(code.count("\n") <= 27 for code in EXAMPLES.values())


@pytest.mark.timeout(30)
@pytest.mark.parametrize("name", sorted(EXAMPLES))
async def test_an_example_prints_the_finals(server: LiveServer, tmp_path: Path, name: str) -> None:
    soundfile.write(tmp_path / "words.wav", np.array([1, 2, 0, 0, 0, 3, 4] + [0] * 9, np.int16), 16000)
    (tmp_path / "example.py").write_text(EXAMPLES[name], encoding="utf-8")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "example.py", server.url, "words.wav"),
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT / "client")},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert (process.returncode, err) == (0, b"")
    finals = [line for line in out.decode().splitlines() if "en: " in line]
    assert [line.partition("en: ")[2] for line in finals] == ["1 2", "3 4"]
