"""NVIDIA's perf_analyzer: fetched on demand out of a pinned wheel, with the two libraries that it lacks."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from launcher.errors import LauncherError
from launcher.lock import file_lock
from launcher.paths import Paths
from launcher.progress import Reporter
from launcher.stamp import is_verified, write_stamp
from launcher.triton_env import TritonEnvironment, ensure_environment
from launcher.weights import replace_folder
from launcher.wheels import WheelPin, copy_member, fetch_wheel, sha256_of, temporary_folder

WHEEL = WheelPin(
    "tritonclient", "2.51.0", "c485bb0123bdf310f90bc8b03d3489b28df2ffed55b30c7eee0b795b48113d52", 13_956_700
)
MEMBER = "tritonclient-2.51.0.data/data/bin/perf_analyzer"
MEMBER_SHA256 = "a8e3fa6d2fcd535770f18fa3c9baf21aee85697352637d24c6b2818401c95a34"
LIBRARIES = {"libb64.so.0d": "libb64-*.so.0d", "libcudart.so.12": "libcudart-*.so.12*"}
"""What the program asks for, and how NVIDIA's server wheel calls it."""
LOCK_TIMEOUT_S = 600.0


@dataclass(frozen=True, slots=True)
class PerfAnalyzer:
    """The program, ready to run.

    Attributes:
        program: the file to start.
        library_folder: goes first on LD_LIBRARY_PATH.
    """

    program: Path
    library_folder: Path

    def process_environment(self) -> dict[str, str]:
        """The environment variables to start it with."""
        older = os.environ.get("LD_LIBRARY_PATH")
        path = f"{self.library_folder}{os.pathsep}{older}" if older else str(self.library_folder)
        return {**os.environ, "LD_LIBRARY_PATH": path}


def ensure_perf_analyzer(
    paths: Paths, reporter: Reporter, environment: TritonEnvironment | None = None
) -> PerfAnalyzer:
    """Makes perf_analyzer present in the cache; where it is, no network is touched.

    Args:
        paths: of this copy.
        reporter: told about the download.
        environment: Triton's, whose wheel has the missing libraries; made when None and missing.

    Raises:
        LauncherError: it could not be had.
    """
    with file_lock(paths.setup_lock, timeout_s=LOCK_TIMEOUT_S, busy="another set-up is running", on_wait=reporter.step):
        environment = environment or ensure_environment(paths, reporter)
        target = paths.tools / f"perf_analyzer-{WHEEL.version}"
        if not is_verified(target, {"perf_analyzer": MEMBER_SHA256}):
            _extract(target, paths, reporter, environment)
        _link_libraries(target / "lib", environment)
    return PerfAnalyzer(target / "perf_analyzer", target / "lib")


def _extract(target: Path, paths: Paths, reporter: Reporter, environment: TritonEnvironment) -> None:
    with temporary_folder(paths.downloads) as scratch:
        folder = scratch / "tool"
        folder.mkdir()
        program = folder / "perf_analyzer"
        wheel = fetch_wheel(WHEEL, scratch, reporter, python=environment.python)
        with program.open("wb") as file:
            copy_member(wheel, MEMBER, file)
        if sha256_of(program) != MEMBER_SHA256:
            raise LauncherError("perf_analyzer came out of the wheel damaged", "check the disk, then run this again")
        program.chmod(0o755)
        write_stamp(folder, ["perf_analyzer"])
        replace_folder(folder, target)


def _link_libraries(folder: Path, environment: TritonEnvironment) -> None:
    folder.mkdir(exist_ok=True)
    for name, pattern in LIBRARIES.items():
        found = sorted(environment.bundled_libraries.glob(pattern))
        if not found:
            raise LauncherError(
                f"{environment.bundled_libraries} holds no {pattern}",
                f"delete {environment.root}, then run `make setup`",
            )
        link = folder / name
        if not link.is_symlink() or link.readlink() != found[0]:
            link.unlink(missing_ok=True)
            link.symlink_to(found[0])


def main() -> int:
    """Makes the program present and prints the command line prefix that runs it."""
    try:
        tool = ensure_perf_analyzer(Paths.from_environment(), Reporter(sys.stderr))
    except LauncherError as error:
        print(f"starling: {error}", file=sys.stderr)
        return 1
    print(f"LD_LIBRARY_PATH={tool.library_folder} {tool.program}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
