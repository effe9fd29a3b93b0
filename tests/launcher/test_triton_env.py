from __future__ import annotations

import ctypes
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from launcher import triton_env
from launcher.base_python import SUPPORTED, BasePython, check_packages, choose_base_python, probe
from launcher.errors import LauncherError
from launcher.paths import Paths
from launcher.setup import Installation
from launcher.triton_env import (
    TritonEnvironment,
    check_libraries,
    check_platform,
    debian_package,
    environment_key,
    find_environment,
    make_stub_python,
)


@pytest.fixture
def lock(paths: Paths) -> Path:
    path = paths.source / "requirements" / "triton.txt"
    path.parent.mkdir(parents=True)
    path.write_text("numpy==1.26.4\n")
    return path


BASE = BasePython(Path("/usr/bin/python3.11"), "3.11.2", ())


def test_the_key_follows_the_lock_and_the_interpreter(paths: Paths, lock: Path) -> None:
    first = environment_key(paths, BASE)
    assert first.startswith("python3.11-")
    assert environment_key(paths, BASE) == first
    assert environment_key(paths, replace(BASE, full_version="3.11.9")) != first
    lock.write_text("numpy==1.26.3\n")
    assert environment_key(paths, BASE) != first


def test_an_unfinished_environment_is_not_taken(installation: Installation, paths: Paths) -> None:
    base = choose_base_python()
    real = replace(paths, source=installation.paths.source)
    copy = real.triton_environments / environment_key(real, base)
    copy.parent.mkdir(parents=True)
    shutil.copytree(installation.triton.root, copy, symlinks=True, copy_function=lambda a, b: Path(b).symlink_to(a))
    assert find_environment(real, base) is not None

    (copy / triton_env.STAMP).unlink()

    assert find_environment(real, base) is None


def test_a_missing_libpython_names_its_package(installation: Installation, tmp_path: Path) -> None:
    stubs = sorted((installation.triton.server_root / "python_backend_stubs").iterdir())
    absent = [stub for stub in stubs if stub.name != "3.13" and not _loadable(f"libpython{stub.name}.so.1.0")]
    assert absent, "this machine has every Python as a system library"
    version = absent[0].name
    environment = TritonEnvironment(tmp_path, "3.11")
    environment.stub.parent.mkdir(parents=True)
    environment.stub.symlink_to(absent[0] / triton_env.STUB)
    environment.server.parent.mkdir(parents=True)
    environment.server.symlink_to(installation.triton.server)

    with pytest.raises(LauncherError, match=rf"apt-get install libpython{version}, then run this again"):
        check_libraries(environment)

    check_libraries(installation.triton)


def _loadable(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def test_libraries_and_their_packages() -> None:
    assert debian_package("libpython3.11.so.1.0") == "libpython3.11"
    assert debian_package("libexpat.so.1") == "libexpat1"
    assert debian_package("libodd.so.4") == "libodd.so.4"


def test_the_stubs_python_sees_the_checkout_and_tritons_packages(installation: Installation, tmp_path: Path) -> None:
    folder = make_stub_python(installation.triton, tmp_path / "stub", installation.paths.source)
    code = "import engines.base, numpy, json; print(json.dumps([engines.base.__file__, numpy.__file__]))"

    # -E as the stub: no PYTHONPATH. Twice, as a second start does.
    make_stub_python(installation.triton, tmp_path / "stub", installation.paths.source)
    run = subprocess.run(
        [folder / "bin" / "python3", "-E", "-c", code], capture_output=True, text=True, check=True, cwd="/"
    )

    engines, numpy = json.loads(run.stdout)
    assert Path(engines) == installation.paths.source / "engines" / "base.py"
    assert Path(numpy).is_relative_to(installation.triton.site_packages)


def test_tritons_numpy_is_older_than_2(installation: Installation) -> None:
    code = "import numpy, onnxruntime, ctranslate2, tokenizers, onnx; print(numpy.__version__)"
    run = subprocess.run([installation.triton.python, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.startswith("1.26.")


@pytest.mark.parametrize(
    ("machine", "libc"), [("aarch64", ("glibc", "2.36")), ("x86_64", ("glibc", "2.31")), ("x86_64", ("", ""))]
)
def test_a_platform_without_a_wheel_is_told(
    machine: str, libc: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr("platform.libc_ver", lambda: libc)

    with pytest.raises(LauncherError, match="container"):
        check_platform()


def test_this_platform_has_one() -> None:
    check_platform()


def test_the_running_python_is_probed() -> None:
    base = probe(sys.executable)
    assert base is not None
    assert base.full_version == ".".join(map(str, sys.version_info[:3]))
    assert base.executable.resolve() == Path(sys._base_executable).resolve()  # type: ignore[attr-defined]


def test_what_does_not_run_is_not_an_interpreter(tmp_path: Path) -> None:
    assert probe(str(tmp_path / "absent")) is None
    assert probe("/bin/true") is None


def test_a_wrong_setting_is_named() -> None:
    with pytest.raises(LauncherError, match="STARLING_TRITON_PYTHON=/bin/true does not run: name an interpreter"):
        choose_base_python({"STARLING_TRITON_PYTHON": "/bin/true"})


def test_a_newer_python_looks_for_one_that_triton_can_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = choose_base_python()
    new = _fake_python(tmp_path / "new", "3.13.1")
    monkeypatch.setattr("sys.executable", str(new))
    empty = {"PATH": str(tmp_path / "new"), "HOME": str(tmp_path)}
    with pytest.raises(LauncherError, match=r"Triton needs Python 3\.11 or 3\.12 .* none was found: install one"):
        choose_base_python(empty)

    (tmp_path / "other").mkdir()
    (tmp_path / "other" / f"python{real.version}").symlink_to(real.executable)
    found = choose_base_python({**empty, "PATH": f"{tmp_path / 'new'}:{tmp_path / 'other'}"})

    assert found.version in SUPPORTED


def _fake_python(folder: Path, version: str) -> Path:
    """A program that answers the probe as a Python of that version would."""
    folder.mkdir()
    program = folder / "python3"
    answer = json.dumps([str(program), version, "", str(folder)])
    program.write_text(f"#!/bin/sh\necho '{answer}'\n")
    program.chmod(0o755)
    return program


def test_the_interpreters_own_library_is_found(tmp_path: Path) -> None:
    base = BasePython(tmp_path / "bin" / "python3", "3.12.1", (tmp_path / "absent", tmp_path / "lib"))
    assert not base.library_path

    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "libpython3.12.so.1.0").touch()

    assert base.library_path == (tmp_path / "lib",)


def test_all_that_an_interpreter_lacks_is_named_at_once(tmp_path: Path) -> None:
    bare = tmp_path / "python3.11"
    bare.write_text("#!/bin/sh\nexit 1\n")
    bare.chmod(0o755)

    with pytest.raises(LauncherError, match=r"apt-get install -y python3\.77-venv libpython3\.77, then run this again"):
        check_packages(BasePython(bare, "3.77.0", ()))

    check_packages(choose_base_python())
