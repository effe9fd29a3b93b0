"""What can be said of the images without building them."""

from __future__ import annotations

import http.client
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launcher.paths import SOURCE_ROOT, Paths
from tests.deploy.dockerfiles import Instruction, copies, environment, passes_dockerignore, read

FILES = ("Dockerfile.server", "Dockerfile.triton")
LAST = "runtime"
START_DEADLINE_S = 60


@pytest.fixture(params=FILES)
def instructions(request: pytest.FixtureRequest) -> list[Instruction]:
    return read(SOURCE_ROOT / request.param)


def _expand(source: str) -> list[str]:
    """`${DEVICE}` stands for each of the two."""
    return [source.replace("${DEVICE}", device) for device in ("cpu", "cuda")] if "$" in source else [source]


def test_everything_that_is_copied_exists_and_reaches_the_build(instructions: list[Instruction]) -> None:
    sources = [name for source, _ in copies(instructions) for name in _expand(source)]
    assert sources
    for source in sources:
        path = SOURCE_ROOT / source
        assert path.exists(), source
        files = (
            [path] if path.is_file() else [file for file in path.rglob("*") if file.suffix in {".py", ".pbtxt", ".js"}]
        )
        assert files
        for file in files:
            assert passes_dockerignore(str(file.relative_to(SOURCE_ROOT))), file


@pytest.mark.parametrize(
    "path", ["server/__pycache__/app.pyc", "tests/data/audio/jfk.wav", ".git/config", ".venv/x", "perf/x"]
)
def test_the_rest_stays_out_of_the_build(path: str) -> None:
    assert not passes_dockerignore(path)


def test_bases_are_pinned_and_packages_hashed(instructions: list[Instruction]) -> None:
    arguments = dict(item.text.split("=", 1) for item in instructions if item.name == "ARG" and "=" in item.text)
    for name, image in arguments.items():
        if name.endswith("_IMAGE"):
            tag = image.rpartition(":")[2]
            assert re.search(r"\d+\.\d+", tag), image
    installs = [
        item.text for item in instructions if item.name == "RUN" and "pip" in item.text and " install " in item.text
    ]
    assert installs
    assert all("--require-hashes" in text and "--no-deps" in text for text in installs)


def test_it_runs_as_nobody_in_particular_and_says_how_it_is(instructions: list[Instruction]) -> None:
    last = {item.name: item.text for item in instructions if item.stage == LAST}
    assert last["USER"] == "10001:10001"
    assert "CMD" in last["HEALTHCHECK"]
    assert last["STOPSIGNAL"] == "SIGTERM"
    assert not [item for item in instructions if item.name == "ADD"]


def _lay_out(file: str, root: Path) -> dict[str, str]:
    """Copies what the last stage copies to below `root`; returns the environment that the image would have."""
    instructions = read(SOURCE_ROOT / file)
    for source, target in copies(instructions, LAST):
        for name in _expand(source):
            place = root / target.lstrip("/")
            if (SOURCE_ROOT / name).is_dir():
                shutil.copytree(SOURCE_ROOT / name, place, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                folder = place if target.endswith("/") else place.parent
                folder.mkdir(parents=True, exist_ok=True)
                shutil.copy2(SOURCE_ROOT / name, folder)
    given = environment(instructions, LAST)
    moved = {name: value.replace("/opt/starling", f"{root}/opt/starling") for name, value in given.items()}
    state = root / "state"
    kept = {"PATH": os.environ["PATH"], "HOME": str(root), "STARLING_STATE_DIR": str(state)}
    cache = Paths.from_environment().cache
    return {**moved, **kept, "STARLING_CACHE_DIR": str(cache)}


def test_the_files_of_the_server_image_are_enough_to_serve(tmp_path: Path) -> None:
    env = _lay_out("Dockerfile.server", tmp_path)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    env |= {
        "STARLING_HOST": "127.0.0.1",
        "STARLING_PORT": str(port),
        "STARLING_TRITON_ADDRESSES": '["127.0.0.1:1"]',
        "STARLING_SESSION_STORE": "memory://",
        "STARLING_TRANSCRIPT_STORE": "memory://",
    }
    program = [sys.executable, "-m", "server"]
    app = tmp_path / "opt/starling/app"
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(program, env=env, cwd=app, stdout=log, stderr=log)
    try:
        status, page = _get(process, port, tmp_path / "log", "/healthz"), _get(process, port, tmp_path / "log", "/")
        assert (status[0], page[0]) == (200, 200)
        assert b"<html" in page[1]
    finally:
        process.terminate()
        assert process.wait(30) == 0


def _get(process: subprocess.Popen[bytes], port: int, log: Path, path: str) -> tuple[int, bytes]:
    deadline = time.monotonic() + START_DEADLINE_S
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read()
        except OSError:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)  # another process's port is no event that could be awaited
        finally:
            connection.close()


def test_the_files_of_the_triton_image_are_enough_for_a_repository(tmp_path: Path) -> None:
    env = _lay_out("Dockerfile.triton", tmp_path) | {"STARLING_TRITON_DEVICE": "cpu", "STARLING_MODEL_THREADS": "3"}
    program = "import os; from launcher.container import prepare; print(*prepare(os.environ))"
    app = tmp_path / "opt/starling/app"
    done = subprocess.run(
        [sys.executable, "-S", "-c", program], env=env, cwd=app, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[:2] == ["tritonserver", "--disable-auto-complete-config"]
    models = tmp_path / "state" / "repository"
    assert sorted(folder.name for folder in models.iterdir()) == ["asr", "asr_multilingual", "punctuation"]
    config = (models / "asr" / "config.pbtxt").read_text()
    assert 'key: "THREADS" value: { string_value: "3" }' in config
    assert "KIND_CPU" in config


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("STARLING_TRITON_DEVICE", "tpu", "give cpu or cuda"),
        ("STARLING_MODEL_INSTANCES", "2", "is no JSON object"),
        ("STARLING_MODEL_INSTANCES", '{"asr": 0}', "from 1 to 64"),
        ("STARLING_MODEL_INSTANCES", '{"nosuch": 1}', "there is no model nosuch"),
        ("STARLING_MODEL_DIRS", '{"asr": "/nosuch"}', "a folder that exists"),
        ("STARLING_MODEL_THREADS", "many", "number of threads"),
        ("STARLING_CACHE_DIR", "/nosuch", "there are no speech models"),
    ],
)
def test_a_wrong_setting_ends_the_triton_container_with_one_line(
    tmp_path: Path, name: str, value: str, says: str
) -> None:
    env = {"PATH": os.environ["PATH"], "STARLING_TRITON_DEVICE": "cpu", "STARLING_STATE_DIR": str(tmp_path)}
    env |= {"STARLING_CACHE_DIR": str(Paths.from_environment().cache), name: value}
    done = subprocess.run(
        [sys.executable, "-m", "launcher.container"],
        env=env,
        cwd=SOURCE_ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert line.startswith("starling: ")
    assert says in line


def test_what_the_triton_image_imports_is_locked_for_its_python() -> None:
    from tests.deploy.locks import locked

    assert {"onnxruntime", "ctranslate2", "tokenizers", "numpy"} <= locked("triton-image-cpu")
    assert {"onnxruntime-gpu", "ctranslate2", "tokenizers", "numpy"} <= locked("triton-image-cuda")
    assert "onnxruntime" not in locked("triton-image-cuda")  # the two would overwrite each other
