"""Triton's own Python environment: the server from NVIDIA's wheel, its stub, and what the engines import.

It is apart from the gateway's because the stub of Triton 2.51 cannot take numpy 2.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from launcher.base_python import SETTING, SUPPORTED, BasePython, check_packages, choose_base_python
from launcher.errors import LauncherError
from launcher.paths import Paths
from launcher.progress import Reporter
from launcher.venv import create_venv, install_locked
from launcher.wheels import WheelPin

PYTRITON = WheelPin(
    "nvidia-pytriton", "0.7.0", "21f063ff93bb426d0c06b7a55e7eb9efcfe62c0dddd9a908e9877e18710128df", 55_369_373
)
LAYOUT = 1
"""Part of the environment's key: raise it when the way of building one changes."""
STAMP = ".complete"
MINIMUM_GLIBC = (2, 35)
STUB = "triton_python_backend_stub"
DEBIAN_PACKAGES = {"libexpat.so.1": "libexpat1", "libz.so.1": "zlib1g", "libstdc++.so.6": "libstdc++6"}


@dataclass(frozen=True, slots=True)
class TritonEnvironment:
    """A Python environment with a Triton server in it.

    Attributes:
        root: the virtual environment.
        version: its Python, such as ``3.11``.
        library_path: folders that the stub needs on LD_LIBRARY_PATH; may be empty.
    """

    root: Path
    version: str
    library_path: tuple[Path, ...] = ()

    @property
    def python(self) -> Path:
        """The environment's interpreter."""
        return self.root / "bin" / "python"

    @property
    def site_packages(self) -> Path:
        """Where its packages lie."""
        return self.root / "lib" / f"python{self.version}" / "site-packages"

    @property
    def server_root(self) -> Path:
        """The server's part of NVIDIA's wheel."""
        return self.site_packages / "pytriton" / "tritonserver"

    @property
    def server(self) -> Path:
        """The `tritonserver` program."""
        return self.server_root / "bin" / "tritonserver"

    @property
    def backends(self) -> Path:
        """For `--backend-directory`."""
        return self.server_root / "backends"

    @property
    def caches(self) -> Path:
        """For `--cache-directory`."""
        return self.server_root / "caches"

    @property
    def stub(self) -> Path:
        """The program that runs one instance of a Python model."""
        return self.backends / "python" / STUB

    @property
    def bundled_libraries(self) -> Path:
        """Libraries that NVIDIA's wheel carries, under long names."""
        return self.site_packages / "nvidia_pytriton.libs"

    def process_environment(self, stub_python: Path) -> dict[str, str]:
        """The environment variables to start Triton with.

        Args:
            stub_python: folder made by `make_stub_python`; the stub takes its packages from the `python3` that is
                first on PATH and ignores PYTHONPATH.
        """
        env = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "PYTHONHOME"}}
        env["PATH"] = os.pathsep.join([str(stub_python / "bin"), env.get("PATH", os.defpath)])
        libraries = [str(folder) for folder in self.library_path]
        libraries += [env["LD_LIBRARY_PATH"]] if env.get("LD_LIBRARY_PATH") else []
        if libraries:
            env["LD_LIBRARY_PATH"] = os.pathsep.join(libraries)
        # A model's prints should reach the log when they happen.
        env["PYTHONUNBUFFERED"] = "1"
        # NumPy's products are small here, and the threads that its library adds to one spin for the next.
        env.setdefault("OPENBLAS_NUM_THREADS", "1")
        return env


def check_platform() -> None:
    """Refuses a machine on which NVIDIA's wheel cannot run.

    Raises:
        LauncherError: another processor or C library.
    """
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise LauncherError(
            f"Triton's wheel runs on x86-64 Linux only, this is {sys.platform} on {platform.machine()}",
            "run Triton in its container and set STARLING_TRITON_ADDRESSES",
        )
    library, version = platform.libc_ver()
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if library != "glibc" or numbers < MINIMUM_GLIBC:
        raise LauncherError(
            f"Triton needs glibc 2.35 or newer, this system has {library or 'another C library'} {version}".rstrip(),
            "use Debian 12 or newer, or run Triton in its container",
        )


def environment_key(paths: Paths, base: BasePython) -> str:
    """Names an environment by everything that went into it."""
    lock = (paths.source / "requirements" / "triton.txt").read_bytes()
    parts = [str(LAYOUT), PYTRITON.requirement, base.full_version, str(base.executable), platform.machine()]
    digest = hashlib.sha256(lock + "\n".join(parts).encode()).hexdigest()
    return f"python{base.version}-{digest[:16]}"


def find_environment(paths: Paths, base: BasePython | None = None) -> TritonEnvironment | None:
    """The environment for this lock and interpreter, or None when set-up has not made it yet."""
    base = base or choose_base_python()
    root = paths.triton_environments / environment_key(paths, base)
    environment = TritonEnvironment(root, base.version, base.library_path)
    complete = (root / STAMP).is_file() and environment.python.exists() and environment.stub.exists()
    return environment if complete else None


def ensure_environment(paths: Paths, reporter: Reporter, base: BasePython | None = None) -> TritonEnvironment:
    """Makes Triton's environment where it is missing or unfinished, and checks that its programs can start.

    Raises:
        LauncherError: the platform, a library or a download is not there.
    """
    check_platform()
    base = base or choose_base_python()
    found = find_environment(paths, base)
    if found is None:
        check_packages(base)
        found = _build(paths, reporter, base)
    check_libraries(found)
    return found


def check_libraries(environment: TritonEnvironment) -> None:
    """Asks the dynamic linker whether the server and the stub find all their libraries.

    Raises:
        LauncherError: naming the Debian packages to install.
    """
    missing = missing_libraries(environment)
    if missing:
        packages = sorted({debian_package(name) for name in missing})
        raise LauncherError(
            f"Triton's Python stub does not find {', '.join(missing)}",
            f"apt-get install {' '.join(packages)}, then run this again",
        )


def missing_libraries(environment: TritonEnvironment) -> list[str]:
    """The shared libraries that the server or the stub would not find."""
    env = environment.process_environment(environment.root)
    missing: set[str] = set()
    for program in (environment.server, environment.stub):
        run = subprocess.run(
            ["ldd", str(program.resolve())], env=env, capture_output=True, text=True, timeout=30, check=False
        )
        missing.update(re.findall(r"^\s*(\S+) => not found", run.stdout, re.MULTILINE))
    return sorted(missing)


def debian_package(library: str) -> str:
    """The Debian package that brings a shared library, or the library's own name where that is not known."""
    match = re.fullmatch(r"(libpython3\.\d+)\.so\.1\.0", library)
    return match[1] if match else DEBIAN_PACKAGES.get(library, library)


def make_stub_python(environment: TritonEnvironment, folder: Path, source: Path) -> Path:
    """Makes the `python3` that Triton's stubs take their packages from, and returns `folder`.

    It is a virtual environment with nothing of its own: a path file leads to Triton's packages and to this checkout,
    so that copies of Starling can share the packages and still run their own engines.
    """
    packages = folder / "lib" / f"python{environment.version}" / "site-packages"
    packages.mkdir(parents=True, exist_ok=True)
    (folder / "bin").mkdir(exist_ok=True)
    base = environment.python.resolve()
    for name in ("python", "python3"):
        link = folder / "bin" / name
        link.unlink(missing_ok=True)
        link.symlink_to(base)
    settings = f"home = {base.parent}\ninclude-system-site-packages = false\nversion = {environment.version}\n"
    (folder / "pyvenv.cfg").write_text(settings)
    (packages / "starling.pth").write_text(f"{environment.site_packages}\n{source}\n")
    return folder


def _build(paths: Paths, reporter: Reporter, base: BasePython) -> TritonEnvironment:
    root = paths.triton_environments / environment_key(paths, base)
    shutil.rmtree(root, ignore_errors=True)
    root.parent.mkdir(parents=True, exist_ok=True)
    environment = TritonEnvironment(root, base.version, base.library_path)
    reporter.step(f"making Triton's Python {base.version} environment in {root}")
    create_venv(root, base.executable)
    server = root / "server.txt"
    server.write_text(PYTRITON.requirement + "\n")
    lock = paths.source / "requirements" / "triton.txt"
    install_locked(environment.python, [lock, server], "Triton's packages", reporter)
    environment.stub.unlink(missing_ok=True)
    environment.stub.symlink_to(Path("../../python_backend_stubs") / base.version / STUB)
    if not environment.stub.exists():
        raise LauncherError(
            f"NVIDIA's wheel has no stub for Python {base.version}", f"set {SETTING} to one of {', '.join(SUPPORTED)}"
        )
    (root / STAMP).write_text(f"{environment_key(paths, base)}\n")
    return environment
