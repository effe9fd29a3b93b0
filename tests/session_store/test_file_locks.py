"""SQLite files that other processes look into while a store has them open."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
from pathlib import Path

from session_store.base import Final
from session_store.factory import open_transcript_store, sqlite_url

LOOK = "import sqlite3, sys; db = sqlite3.connect(sys.argv[1]); print(db.execute({!r}).fetchone()[0]); db.close()"
COUNT = "SELECT count(*) FROM starling_finals"


def final(seq: int) -> Final:
    return Final(seq, f"words {seq}", float(seq), seq + 0.5, "en", 0.9, False)


async def test_what_is_written_after_another_process_has_looked_is_not_lost(tmp_path: Path) -> None:
    path = tmp_path / "transcripts.sqlite"
    store = open_transcript_store(sqlite_url(path))
    try:
        await store.open_session("s", label="", language="en", key_id="")
        # Several connections of this process: none may cost the others their locks on the file.
        await asyncio.gather(*(store.finals("s") for _ in range(4)))
        await store.append("s", final(0))
        assert await asyncio.to_thread(look, path) == 1
        await store.append("s", final(1))
        assert Path(f"{path}-wal").exists()
        assert await asyncio.to_thread(look, path) == 2
    finally:
        await store.close()
    with sqlite3.connect(path) as db:
        assert db.execute(COUNT).fetchone() == (2,)
    db.close()


def look(path: Path) -> int:
    """How many finals another process sees, which then closes the file."""
    program = [sys.executable, "-c", LOOK.format(COUNT), str(path)]
    return int(subprocess.run(program, check=True, capture_output=True, text=True, timeout=60).stdout)
