"""`starling keys` as a program: what it prints, where, and what it leaves in the file."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from server.keys import Keys, read_keys

RUN = "import sys; from starling_cli.main import main; sys.exit(main())"


def starling(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("STARLING_")}
    return subprocess.run(
        [sys.executable, "-c", RUN, "keys", *words],
        env={**kept, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path), **environment},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_add_prints_the_key_alone_and_only_once(tmp_path: Path) -> None:
    added = starling(tmp_path, "--file", "keys.json", "add", "phone")
    assert added.returncode == 0, added.stderr
    text = added.stdout.removesuffix("\n")
    assert Keys(tmp_path / "keys.json").find(text) is not None
    assert text not in added.stderr
    assert stat.S_IMODE((tmp_path / "keys.json").stat().st_mode) == 0o600
    listed = starling(tmp_path, "--file", "keys.json", "list")
    assert "phone" in listed.stdout
    assert text not in listed.stdout
    assert text.split("_", 2)[2] not in listed.stdout
    assert read_keys(tmp_path / "keys.json").popitem()[1].sha256 not in listed.stdout


def test_limits_and_expiry_are_kept_and_listed(tmp_path: Path) -> None:
    words = ("add", "two\x1b[2J words", "--sessions", "3", "--hours-per-day", "0.5", "--expires", "30d")
    assert starling(tmp_path, *words, STARLING_KEYS_FILE="k.json").returncode == 0
    assert starling(tmp_path, "add", "free", STARLING_KEYS_FILE="k.json").returncode == 0
    [limited, free] = read_keys(tmp_path / "k.json").values()
    assert (limited.sessions, limited.hours_per_day) == (3, 0.5)
    assert limited.expires is not None
    assert abs(limited.expires - datetime.now(UTC) - timedelta(days=30)) < timedelta(hours=1)
    assert (free.sessions, free.hours_per_day, free.expires) == (None, None, None)
    listed = starling(tmp_path, "list", STARLING_KEYS_FILE="k.json")
    head, first, second = listed.stdout.splitlines()
    assert head.split() == ["ID", "NAME", "CREATED", "EXPIRES", "SESSIONS", "HOURS", "A", "DAY"]
    assert "\x1b" not in first
    assert first.split()[-2:] == ["3", "0.5"]
    assert second.split()[-3:] == ["never", "any", "any"]
    as_json = starling(tmp_path, "list", "--json", STARLING_KEYS_FILE="k.json")
    rows = [json.loads(line) for line in as_json.stdout.splitlines()]
    assert [row["name"] for row in rows] == ["two\x1b[2J words", "free"]
    assert all("sha256" not in row for row in rows)


def test_revoke_takes_one_away(tmp_path: Path) -> None:
    for name in ("first", "second"):
        starling(tmp_path, "--file", "keys.json", "add", name)
    first, second = read_keys(tmp_path / "keys.json")
    assert starling(tmp_path, "--file", "keys.json", "revoke", first).returncode == 0
    assert list(read_keys(tmp_path / "keys.json")) == [second]
    again = starling(tmp_path, "--file", "keys.json", "revoke", first)
    assert again.returncode == 1
    assert "starling keys list" in again.stderr


def test_without_a_file_named_it_is_in_the_state_folder_and_says_how_to_use_it(tmp_path: Path) -> None:
    added = starling(tmp_path, "add", "phone", STARLING_STATE_DIR="state")
    assert added.returncode == 0
    assert f"STARLING_KEYS_FILE={tmp_path / 'state' / 'keys.json'}" in added.stderr
    assert len(read_keys(tmp_path / "state" / "keys.json")) == 1


@pytest.mark.parametrize(
    "words",
    [
        ("add",),
        ("add", "x", "--sessions", "0"),
        ("add", "x", "--sessions", "many"),
        ("add", "x", "--hours-per-day", "-1"),
        ("add", "x", "--hours-per-day", "nan"),
        ("add", "x", "--expires", "soon"),
        ("add", "x", "--expires", "2001-01-01"),
        ("add", "x", "--expires", "999999w"),
        ("revoke",),
        (),
    ],
)
def test_wrong_usage_changes_nothing(tmp_path: Path, words: tuple[str, ...]) -> None:
    answer = starling(tmp_path, *words, STARLING_KEYS_FILE="keys.json")
    assert answer.returncode == 2
    assert "Traceback" not in answer.stderr
    assert not (tmp_path / "keys.json").exists()


def test_a_missing_or_broken_file_gives_one_line(tmp_path: Path) -> None:
    assert starling(tmp_path, "list").stderr.count("\n") == 1
    (tmp_path / "keys.json").write_text("{")
    for words in (("list",), ("add", "x"), ("revoke", "aaaaaaaa")):
        answer = starling(tmp_path, "--file", "keys.json", *words)
        assert answer.returncode == 1
        assert answer.stderr.count("\n") == 1
        assert answer.stdout == ""
    assert (tmp_path / "keys.json").read_text() == "{"
