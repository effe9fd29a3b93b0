"""`starling sessions` and `starling transcripts` on a real store."""

from __future__ import annotations

import argparse
import asyncio
import json
from pathlib import Path

import pytest

from session_store.base import Final
from session_store.factory import open_transcript_store, sqlite_url
from starling_cli import transcripts


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A store with two sessions, found by the environment."""
    url = sqlite_url(tmp_path / "state" / "transcripts.sqlite")

    async def fill() -> None:
        store = open_transcript_store(url, deadline_s=30)
        await store.open_session("s-1", label="first\x1b[2J", language="en", key_id="k1")
        await store.append("s-1", Final(0, "It was the best of times.", 0.25, 1.5, "en", 0.9, True))
        await store.append("s-1", Final(1, "It was the worst of times.", 2.0, 3.5, "en", 0.9, True))
        await store.end_session("s-1", audio_seconds=4.0)
        await store.open_session("s-2", label="second", language="fr", key_id="k2")
        await store.close()

    asyncio.run(fill())
    monkeypatch.delenv("STARLING_TRANSCRIPT_STORE", raising=False)
    monkeypatch.setenv("STARLING_STATE_DIR", str(tmp_path / "state"))
    return url


def starling(*words: str) -> int:
    parser = argparse.ArgumentParser(prog="starling")
    transcripts.add_parser(parser.add_subparsers(dest="command", required=True))
    return transcripts.run(parser.parse_args(words))


def test_sessions_lists_newest_first(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert starling("sessions") == 0
    head, first, second = capsys.readouterr().out.splitlines()
    assert head.split() == ["SESSION", "STARTED", "STATE", "AUDIO", "FINALS", "LANGUAGE", "LABEL"]
    assert first.split()[:2] + first.split()[3:] == ["s-2", first.split()[1], "open", "0.0", "s", "0", "fr", "second"]
    assert second.split()[3:] == ["ended", "4.0", "s", "2", "en", "first�[2J"]


def test_sessions_of_a_key_as_json(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert starling("sessions", "--key", "k1", "--json") == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)["session_id"] == "s-1"
    assert starling("sessions", "--limit", "1", "--json") == 0
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_transcript_in_each_format(url: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert starling("transcripts", "s-1") == 0
    assert capsys.readouterr().out == "It was the best of times.\nIt was the worst of times.\n"
    assert starling("transcripts", "s-1", "--format", "json") == 0
    assert [final["seq"] for final in json.loads(capsys.readouterr().out)["finals"]] == [0, 1]
    assert starling("transcripts", "s-1", "--format", "srt") == 0
    assert "00:00:02,000 --> 00:00:03,500" in capsys.readouterr().out
    assert starling("transcripts", "s-1", "--format", "vtt", "-o", str(tmp_path / "x.vtt")) == 0
    assert capsys.readouterr().out == ""
    assert (tmp_path / "x.vtt").read_text("utf-8").startswith("WEBVTT\n")


def test_delete(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert starling("transcripts", "s-1", "--delete") == 0
    assert starling("transcripts", "s-1") == 1
    assert "no session 's-1'" in capsys.readouterr().err
    assert starling("sessions", "--json") == 0
    assert [json.loads(line)["session_id"] for line in capsys.readouterr().out.splitlines()] == ["s-2"]


def test_purge(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert starling("sessions", "--purge", "1h") == 0
    assert capsys.readouterr().out == "0 sessions deleted\n"
    assert starling("sessions", "--purge", "0s") == 0
    assert capsys.readouterr().out == "2 sessions deleted\n"
    assert starling("sessions") == 0
    assert capsys.readouterr().err == "no sessions\n"


@pytest.mark.parametrize("words", [["--purge", "30"], ["--purge", "d"], ["--limit", "0"], ["--limit", "x"]])
def test_wrong_values(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        starling("sessions", *words)
    assert "is not a" in capsys.readouterr().err


def test_no_store(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STARLING_TRANSCRIPT_STORE", raising=False)
    monkeypatch.setenv("STARLING_STATE_DIR", str(tmp_path / "nothing"))
    assert starling("sessions") == 1
    assert "there are no transcripts at" in capsys.readouterr().err
    assert not (tmp_path / "nothing").exists()
    assert starling("sessions", "--store", "mysql://user:s3cret@127.0.0.1:1/db") == 1
    shown = capsys.readouterr().err
    assert "mysql://127.0.0.1:1/db" in shown
    assert "s3cret" not in shown
    monkeypatch.setenv("STARLING_TRANSCRIPT_STORE", "nonsense")
    assert starling("transcripts", "s") == 1
    assert "has no scheme" in capsys.readouterr().err
