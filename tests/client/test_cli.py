"""The command line as its user meets it: arguments in, text and exit status out, against the model server."""

from __future__ import annotations

import asyncio
import io
import json
import os
import pty
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from starling_cli.audio_files import AudioFile, AudioFileError
from starling_cli.doctor import render
from starling_cli.level import FLOOR_DB, Level
from starling_cli.live import View
from starling_cli.main import COMMANDS, main
from starling_cli.pacing import in_real_time
from starling_cli.screen import LiveLine, printable, tail, width
from starling_client import Final, Partial, Reconnected, Reconnecting
from tests.client.live_server import LiveServer, serving

ROOT = Path(__file__).parents[2]
CLIP = ROOT / "tests" / "data" / "audio" / "librivox_sense_0880.wav"

pytestmark = pytest.mark.timeout(30)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[LiveServer]:
    running: list[LiveServer] = []
    started, stop = threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()

    async def serve() -> None:
        async with serving() as live:
            running.append(live)
            started.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    assert started.wait(10)
    monkeypatch.setenv("STARLING_URL", running[0].url)
    yield running[0]
    loop.call_soon_threadsafe(stop.set)
    thread.join()
    loop.close()


@pytest.fixture
def wav(tmp_path: Path) -> Path:
    path = tmp_path / "words.wav"
    soundfile.write(path, np.array([1, 2, 0, 0, 0, 3, 4, 0, 0, 0] + [0] * 20, np.int16), 16000)
    return path


def starling(*arguments: str, **options: object) -> subprocess.Popen[bytes]:
    code = "import sys; from starling_cli.main import main; sys.exit(main())"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "client"), "COLUMNS": "60"}
    return subprocess.Popen([sys.executable, "-c", code, *arguments], env=environment, cwd=ROOT, **options)  # type: ignore[call-overload, no-any-return]


def test_finals_are_lines_and_nothing_else_where_the_output_is_no_terminal(
    server: LiveServer, wav: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["transcribe", str(wav)]) == 0
    assert capsys.readouterr().out == "en: 1 2\nen: 3 4\n"
    start = json.loads(server.texts[0])
    assert (start["sample_rate"], start["encoding"], start["session_label"]) == (16000, "pcm_s16le", "words.wav")


def test_settings_reach_the_server(server: LiveServer, wav: Path) -> None:
    options = ["--language", "es", "--label", "my talk", "--no-punctuation", "--api-key", "k1", "--realtime"]
    assert main(["transcribe", *options, str(wav)]) == 0
    start = json.loads(server.texts[0])
    assert (start["language"], start["session_label"], start["punctuate"]) == ("es", "my talk", False)
    assert server.requests[0].headers["Authorization"] == "Bearer k1"


def test_json_has_every_event_on_a_line_and_no_token(
    server: LiveServer, wav: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["transcribe", "--json", str(wav)]) == 0
    out = capsys.readouterr().out
    events = [json.loads(line) for line in out.splitlines()]
    assert [event["text"] for event in events if event["type"] == "final"] == ["en: 1 2", "en: 3 4"]
    assert {"session", "partial", "speech_started", "ack", "done"} <= {event["type"] for event in events}
    assert "token" not in out


def test_a_file_that_cannot_be_read_costs_the_others_nothing(
    server: LiveServer, wav: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes.txt").write_text("no sound")
    assert main(["transcribe", str(tmp_path / "gone.wav"), str(tmp_path / "notes.txt"), str(wav)]) == 1
    out, err = capsys.readouterr()
    assert out == f"==> {wav} <==\nen: 1 2\nen: 3 4\n"
    assert "gone.wav: there is no such file" in err
    assert "ffmpeg -i notes.txt" in err


def test_raw_audio_from_standard_input(server: LiveServer) -> None:
    process = starling("transcribe", "-", "--rate", "8000", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    out, _ = process.communicate(b"\1\0\2\0" + bytes(20), timeout=20)
    assert (process.returncode, out) == (0, b"en: 1 2\n")
    assert json.loads(server.texts[0])["sample_rate"] == 8000


def test_without_a_server_one_line_says_how_to_start_it(wav: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["transcribe", "--url", "ws://127.0.0.1:9/stream", str(wav)]) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "make serve" in err


@pytest.mark.parametrize(
    ("refusal", "advice"),
    [
        ((401, {}), "STARLING_API_KEY"),
        ((404, {}), "/stream"),
        ((503, {"Retry-After": "60"}), "try again in 60 s"),
    ],
)
def test_refusals_say_what_to_do(
    server: LiveServer,
    wav: Path,
    capsys: pytest.CaptureFixture[str],
    refusal: tuple[int, dict[str, str]],
    advice: str,
) -> None:
    server.refusals.append(refusal)
    assert main(["transcribe", str(wav)]) == 1
    assert advice in capsys.readouterr().err


def test_an_address_that_is_none_is_said_to_be(wav: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["transcribe", "--url", "localhost:8000", str(wav)]) == 1
    assert "ws://HOST:PORT/stream" in capsys.readouterr().err


def test_on_a_terminal_partials_are_written_over_and_finals_stay(server: LiveServer, wav: Path) -> None:
    ours, theirs = pty.openpty()
    process = starling("transcribe", str(wav), stdout=theirs)
    os.close(theirs)
    screen = b""
    try:
        while piece := os.read(ours, 4096):
            screen += piece
    except OSError:  # Linux tells the end of a terminal so.
        pass
    os.close(ours)
    assert process.wait(20) == 0
    lines = screen.replace(b"\r\n", b"\n").split(b"\n")
    finals = [line.rsplit(b"\x1b[2K", 1)[-1] for line in lines]
    assert finals[:2] == [b"en: 1 2", b"en: 3 4"]
    assert b"%" in screen
    assert b"1 2" in screen.split(b"en: 1 2")[0], "a partial was shown before its final"


def test_ctrl_c_ends_it_with_a_word_and_130(server: LiveServer) -> None:
    process = starling("transcribe", "--realtime", str(CLIP), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline(), "the first final"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert err == b"starling: stopped\n"


def test_live_prints_the_finals_of_a_file_and_ends_on_ctrl_c_with_the_last_words(server: LiveServer) -> None:
    process = starling("live", str(CLIP), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    first = process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (0, b"")
    assert first.startswith(b"en: ")
    assert '{"type":"end"}' in server.texts


def test_live_without_the_microphones_package_says_what_to_install(
    server: LiveServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    assert main(["live"]) == 1
    assert "pip install sounddevice" in capsys.readouterr().err


def test_the_view_tells_stable_words_from_the_rest_and_shows_the_connection() -> None:
    view = View()
    view.take(Partial("hello wor", seq=0, start=0, end=1.0, stable=6, language="en"), sent_s=1.4)
    text = view.__rich__()
    assert text.plain.startswith("hello wor\n")
    assert [(text.plain[span.start : span.end], str(span.style)) for span in text.spans[:2]] == [
        ("hello ", "default"),
        ("wor", "bright_black"),
    ]
    assert "connected" in text.plain
    assert "lag 0.4 s" in text.plain
    view.take(Reconnecting(2, 0.1, "close 1006"), sent_s=1.5)
    assert "connection lost, attempt 2" in view.__rich__().plain
    view.take(Reconnected(2, 0, 0), sent_s=1.5)
    view.take(Final("Hello world.", 0, 0, 1, 1, True, "en"), sent_s=1.6)
    assert view.__rich__().plain.startswith("\n")


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    out = capsys.readouterr().out
    assert all(command.name in out and command.help in out for command in COMMANDS)


@pytest.mark.parametrize("name", [command.name for command in COMMANDS])
def test_every_command_has_its_own_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main([name, "--help"])
    assert left.value.code == 0
    assert f"starling {name}" in capsys.readouterr().out


def test_the_help_loads_no_heavy_module() -> None:
    code = (
        "import sys; from starling_cli.main import main; main([]);"
        "heavy = {'numpy', 'websockets', 'soundfile', 'rich', 'sqlalchemy', 'scipy', 'server'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "client")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_doctor_marks_what_is_wrong_and_gives_the_remedy() -> None:
    from launcher.doctor import Check

    checks = [
        Check("weights", True, "all there"),
        Check("gateway", False, "does not run", "start it with `make serve`"),
        Check("haproxy", False, "not installed", "apt-get install haproxy", optional=True),
    ]
    lines = render(checks, color=False).splitlines()
    assert lines[0] == "ok  weights  all there"
    assert lines[1:3] == ["!!  gateway  does not run", "             -> start it with `make serve`"]
    assert lines[3].startswith("--  haproxy")
    assert lines[-1] == "1 things to mend"
    assert "\x1b[31m" in render(checks, color=True)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("kind", [("WAV", "PCM_16"), ("WAV", "FLOAT"), ("FLAC", "PCM_24"), ("WAV", "ULAW")])
def test_any_file_becomes_mono_16_bit_at_its_own_rate(tmp_path: Path, kind: tuple[str, str], channels: int) -> None:
    tone = 0.5 * np.sin(np.arange(44100) / 44100 * 2 * np.pi * 440)
    path = tmp_path / "tone"
    soundfile.write(path, np.stack([tone] * channels, axis=1), 44100, format=kind[0], subtype=kind[1])
    file = AudioFile(path)
    samples = np.concatenate(list(file.pieces(0.02)))
    file.close()
    assert (file.rate, len(samples)) == (44100, 44100)
    assert samples.dtype == np.int16
    assert np.abs(samples - tone * 32768).max() < (700 if kind[1] == "ULAW" else 2)


def test_16_bit_mono_passes_unchanged(tmp_path: Path) -> None:
    data = np.random.default_rng(1).integers(-32768, 32768, 30_001).astype(np.int16)
    soundfile.write(tmp_path / "a.wav", data, 16000)
    file = AudioFile(tmp_path / "a.wav")
    pieces = list(file.pieces(0.02))
    file.close()
    assert {len(piece) for piece in pieces[:-1]} == {320}
    assert np.array_equal(np.concatenate(pieces), data)


@pytest.mark.parametrize("rate", [96_000, 88_200, 6_000])
def test_a_rate_that_the_protocol_lacks_is_resampled_as_the_whole_file_would_be(tmp_path: Path, rate: int) -> None:
    from scipy.signal import resample_poly

    data = np.random.default_rng(1).uniform(-0.4, 0.4, round(3.3 * rate)).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", data, rate, subtype="FLOAT")
    file = AudioFile(tmp_path / "a.wav")
    samples = np.concatenate(list(file.pieces(0.1)))
    file.close()
    whole = resample_poly(data, 16000, rate)
    assert file.rate == 16000
    assert len(samples) == len(whole)
    assert np.abs(samples - whole * 32768).max() < 1


def test_samples_that_are_no_numbers_or_too_loud_are_tamed(tmp_path: Path) -> None:
    data = np.array([np.nan, np.inf, -np.inf, 3.0, 0.5], np.float32)
    soundfile.write(tmp_path / "a.wav", data, 16000, subtype="FLOAT")
    file = AudioFile(tmp_path / "a.wav")
    assert next(file.pieces(1)).tolist() == [0, 32767, -32768, 32767, 16384]
    file.close()


def test_a_folder_is_no_audio_file(tmp_path: Path) -> None:
    with pytest.raises(AudioFileError, match="is a folder"):
        AudioFile(tmp_path)


def test_text_is_cut_to_the_terminal_at_its_beginning() -> None:
    assert tail("hello", 10) == "hello"
    assert tail("hello world", 6) == "…world"
    assert tail("hello", 0) == ""
    assert width("日本e\u0301") == 5
    assert tail("日本語", 5) == "…本語"


def test_a_server_cannot_write_control_characters_to_the_terminal() -> None:
    assert printable("a\x1b[2Jb\nc\x07") == "a [2Jb c "


def test_the_unfinished_line_is_not_written_twice_and_not_without_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    line = LiveLine(out)
    line.show("50 % ", "some words")
    assert out.getvalue() == ""
    monkeypatch.setattr(out, "isatty", lambda: True)
    line = LiveLine(out)
    line.show("50 % ", "some words")
    line.show("50 % ", "some words")
    assert out.getvalue().count("some words") == 1
    line.finish("Some words.")
    assert out.getvalue().endswith("\r\x1b[2KSome words.\n")


def test_the_meter_rises_at_once_and_falls_slowly() -> None:
    level = Level()
    assert level.bar().strip() == ""
    level.add(np.full(320, 32767, np.int16).tobytes(), now=1.0)
    assert level.db == pytest.approx(0, abs=0.01)
    assert level.bar() == "█" * 12
    level.add(bytes(640), now=1.5)
    assert level.db == pytest.approx(-20, abs=0.01)
    level.add(bytes(640), now=9.0)
    assert level.db == FLOOR_DB


async def test_pacing_does_not_drift(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    now = 0.0
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        nonlocal now
        waits.append(seconds)
        now += seconds + 0.005

    monkeypatch.setattr(asyncio, "sleep", sleep)
    monkeypatch.setattr(loop, "time", lambda: now)
    assert [piece async for piece in in_real_time(range(100), 0.02)] == list(range(100))
    assert now == pytest.approx(2.0, abs=0.01)
    assert min(waits) >= 0
