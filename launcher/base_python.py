"""Which Python Triton's environment is made from, and whether it comes with what the stub needs."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from launcher.errors import LauncherError

SUPPORTED = ("3.11", "3.12")
"""Triton 2.51 has stubs up to 3.13, but they cannot take numpy 2, and older numpy has no wheels past 3.12."""

SETTING = "STARLING_TRITON_PYTHON"
_PROBE = """
import json, platform, sys, sysconfig
print(json.dumps([getattr(sys, "_base_executable", sys.executable), platform.python_version(),
                  sysconfig.get_config_var("LIBDIR") or "", sys.base_prefix]))
"""


@dataclass(frozen=True, slots=True)
class BasePython:
    """An interpreter outside of any virtual environment.

    Attributes:
        executable: the program.
        full_version: such as ``3.11.7``.
        library_folders: where its shared library may lie.
    """

    executable: Path
    full_version: str
    library_folders: tuple[Path, ...]

    @property
    def version(self) -> str:
        """Such as ``3.11``."""
        return ".".join(self.full_version.split(".")[:2])

    @property
    def shared_library(self) -> str:
        """The file name of this Python as a library, which the stub is linked to."""
        return f"libpython{self.version}.so.1.0"

    @property
    def library_path(self) -> tuple[Path, ...]:
        """The folder of the shared library, where the system's linker does not look anyway; else nothing."""
        system = (Path("/usr/lib"), Path("/lib"))
        for folder in self.library_folders:
            if (folder / self.shared_library).is_file():
                return () if any(folder.is_relative_to(root) for root in system) else (folder,)
        return ()


def missing_packages(base: BasePython) -> list[str]:
    """The Debian packages that bring what this interpreter lacks for virtual environments and for Triton's stub."""
    code = "import ensurepip, venv"
    run = subprocess.run([str(base.executable), "-I", "-c", code], capture_output=True, timeout=30, check=False)
    packages = [f"python{base.version}-venv"] if run.returncode else []
    if not base.library_path and not _system_has(base.shared_library):
        packages.append(f"libpython{base.version}")
    if not _system_has("libexpat.so.1"):
        packages.append("libexpat1")
    return packages


def check_packages(base: BasePython) -> None:
    """Refuses to begin what would fail later, and names all that is missing at once.

    Raises:
        LauncherError: with the one line that installs it.
    """
    packages = missing_packages(base)
    if packages:
        raise LauncherError(
            f"Python {base.full_version} ({base.executable}) lacks {' and '.join(packages)}",
            f"apt-get install -y {' '.join(packages)}, then run this again",
        )


def _system_has(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def choose_base_python(environment: Mapping[str, str] | None = None) -> BasePython:
    """The interpreter that `STARLING_TRITON_PYTHON` names, the running one, or another on this machine that will do.

    Raises:
        LauncherError: there is none; says what to install.
    """
    env = os.environ if environment is None else environment
    wanted = env.get(SETTING)
    if wanted:
        base = probe(wanted)
        if base is None or base.version not in SUPPORTED:
            found = f"is Python {base.full_version}" if base else "does not run"
            raise LauncherError(
                f"{SETTING}={wanted} {found}", f"name an interpreter of Python {' or '.join(SUPPORTED)}"
            )
        return base
    for candidate in _candidates(env):
        base = probe(candidate)
        if base is not None and base.version in SUPPORTED:
            return base
    raise LauncherError(
        f"Triton needs Python {' or '.join(SUPPORTED)} beside this Python {sys.version_info.major}."
        f"{sys.version_info.minor}, and none was found",
        f"install one (the distribution's, pyenv's, or `uv python install 3.12`), or set {SETTING} to its path",
    )


def probe(executable: str) -> BasePython | None:
    """What an interpreter says about itself, or None when it does not run."""
    try:
        # -I: nothing from this process's environment or folder.
        run = subprocess.run(
            [executable, "-I", "-c", _PROBE], capture_output=True, text=True, timeout=30, check=True, cwd="/"
        )
        base, version, library_folder, prefix = json.loads(run.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    # A relocated build names the folder of its builder: its own prefix is tried too.
    folders = [Path(library_folder)] if library_folder else []
    # Linked to by several names, it is still one.
    return BasePython(Path(base).resolve(), version, (*folders, Path(prefix) / "lib"))


def _candidates(env: Mapping[str, str]) -> Iterator[str]:
    yield sys.executable
    for version in SUPPORTED:
        if found := shutil.which(f"python{version}", path=env.get("PATH")):
            yield found
        for pattern in (
            f".pyenv/versions/{version}.*/bin/python3",
            f".local/share/uv/python/cpython-{version}*/bin/python3",
        ):
            yield from (str(path) for path in sorted(Path(env.get("HOME") or "/").glob(pattern), reverse=True))
