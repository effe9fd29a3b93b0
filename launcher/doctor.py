"""What is installed, reachable and ready on this machine, and what to do about what is not."""

from __future__ import annotations

import argparse
import http.client
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from launcher.base_python import choose_base_python
from launcher.errors import LauncherError
from launcher.paths import Paths
from launcher.ports import is_free
from launcher.stamp import damaged_files
from launcher.triton import TritonOptions
from launcher.triton_env import check_libraries, check_platform, find_environment
from launcher.weight_pins import ALL_WEIGHTS, WeightPin

PROBE_TIMEOUT_S = 3.0
CACHE_BYTES = 2_500_000_000
"""What the cache folder takes in all, downloads included."""
STATE_BYTES = 200_000_000
PROGRAMS = {
    "redis-server": "redis-server",
    "mariadbd": "mariadb-server",
    "postgres": "postgresql",
    "haproxy": "haproxy",
    "chromium": "chromium",
    "promtool": "prometheus",
}
"""Programs that only some tests and deployments need, and their Debian packages."""
EXTRA_FOLDERS = ("/usr/sbin", "/usr/local/sbin", "/usr/lib/postgresql/*/bin")
SET_UP = "run `make setup`"


@dataclass(frozen=True, slots=True)
class Check:
    """One finding.

    Attributes:
        name: what was looked at.
        ok: whether it is as it should be.
        detail: what was found.
        remedy: what to do when it is not; empty when it is.
        optional: whether `make serve` does without it.
    """

    name: str
    ok: bool
    detail: str
    remedy: str = ""
    optional: bool = False


def run_checks(
    paths: Paths | None = None,
    *,
    triton: TritonOptions | None = None,
    gateway_host: str = "127.0.0.1",
    gateway_port: int | None = None,
    environment: Mapping[str, str] | None = None,
) -> list[Check]:
    """Looks at everything that `make serve` needs. Reads all weights again, which takes a second or two.

    Args:
        paths: from the environment when None.
        triton: its ports; from the environment when None.
        gateway_host: where the gateway should listen.
        gateway_port: `STARLING_PORT` or 8000 when None.
        environment: variables to read the settings from; the process's own when None.
    """
    env = os.environ if environment is None else environment
    paths = paths or Paths.from_environment(env)
    port = gateway_port if gateway_port is not None else int(env.get("STARLING_PORT") or 8000)
    options = triton or TritonOptions.from_environment(env)
    return [
        check_python(),
        check_system(),
        *check_disk(paths),
        check_triton_environment(paths),
        *(check_weights(pin, paths) for pin in ALL_WEIGHTS),
        check_gateway(gateway_host, port),
        check_triton(options),
        *check_programs(),
    ]


def check_python() -> Check:
    """The running Python, and the one that Triton's environment is made from."""
    version = platform.python_version()
    try:
        base = choose_base_python()
    except LauncherError as error:
        return Check("python", False, error.problem, error.remedy)
    return Check("python", True, f"Python {version}; Triton's is {base.full_version} ({base.executable})")


def check_system() -> Check:
    """Processor and C library."""
    try:
        check_platform()
    except LauncherError as error:
        return Check("system", False, error.problem, error.remedy)
    return Check("system", True, f"{platform.machine()}, {' '.join(platform.libc_ver())}, {os.cpu_count()} cores")


def check_disk(paths: Paths) -> Iterator[Check]:
    """Room in the cache and in the state folder."""
    complete = _has_environment(paths) and all(pin.folder(paths).is_dir() for pin in ALL_WEIGHTS)
    wanted = {"cache": (paths.cache, 0 if complete else CACHE_BYTES), "state": (paths.state, STATE_BYTES)}
    for name, (folder, needed) in wanted.items():
        existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
        free = shutil.disk_usage(existing).free
        ok = free >= needed and os.access(existing, os.W_OK)
        remedy = "" if ok else f"free {needed / 1e9:.1f} GB there, or set STARLING_{name.upper()}_DIR to another folder"
        yield Check(f"disk ({name})", ok, f"{folder}: {free / 1e9:.1f} GB free", remedy)


def check_triton_environment(paths: Paths) -> Check:
    """Triton's own Python environment and the libraries of its programs."""
    name = "triton environment"
    try:
        found = find_environment(paths)
        if found is None:
            return Check(name, False, f"not in {paths.triton_environments}", SET_UP)
        check_libraries(found)
    except LauncherError as error:
        return Check(name, False, error.problem, error.remedy)
    return Check(name, True, str(found.root))


def check_weights(pin: WeightPin, paths: Paths) -> Check:
    """A model's files: present, and byte for byte what they were when they were made."""
    name = f"weights ({pin.name})"
    folder = pin.folder(paths)
    bad = damaged_files(folder)
    if bad is None:
        return Check(name, False, f"not in {folder}", SET_UP)
    if bad:
        return Check(name, False, f"damaged: {', '.join(bad)}", f"delete {folder}, then {SET_UP}")
    return Check(name, True, str(folder))


def check_gateway(host: str, port: int) -> Check:
    """Whether a gateway answers there, whether it is ready, or whether its port is free for one."""
    name, where = "gateway", f"{host}:{port}"
    health = _get_status(host, port, "/healthz")
    if health is None:
        if is_free(port, host):
            return Check(name, False, f"does not run ({where} is free)", "start it with `make serve`", optional=True)
        return Check(name, False, f"something else listens on {where}", "stop it, or set STARLING_PORT to another port")
    if health != 200:
        return Check(name, False, f"{where} answers {health}", "stop what listens there, or set STARLING_PORT")
    if _get_status(host, port, "/readyz") != 200:
        return Check(name, False, f"runs on {where}, not ready", "wait a moment; else look at its log")
    return Check(name, True, f"ready on {where}")


def check_triton(options: TritonOptions) -> Check:
    """Whether a Triton is ready on its ports, or whether they are free for one."""
    name = "triton"
    status = _get_status(options.host, options.http_port, "/v2/health/ready")
    if status == 200:
        return Check(name, True, f"ready, gRPC on {options.grpc_url}")
    if status is not None:
        return Check(name, False, f"answers {status} on port {options.http_port}: it loads or a model failed", "wait")
    ports = {"GRPC": options.grpc_port, "HTTP": options.http_port, "METRICS": options.metrics_port}
    taken = {kind: port for kind, port in ports.items() if not is_free(port, options.host)}
    if taken:
        settings = ", ".join(f"STARLING_TRITON_{kind}_PORT" for kind in taken)
        return Check(
            name, False, f"ports in use: {', '.join(map(str, taken.values()))}", f"free them, or set {settings}"
        )
    return Check(name, False, "does not run (its ports are free)", "`make serve` starts it", optional=True)


def check_programs() -> Iterator[Check]:
    """Programs that some tests start."""
    for program, package in PROGRAMS.items():
        found = find_program(program)
        yield Check(
            program, found is not None, found or "not installed", "" if found else f"apt-get install {package}", True
        )


def find_program(name: str) -> str | None:
    """A program on PATH or where Debian keeps servers."""
    if found := shutil.which(name):
        return found
    for pattern in EXTRA_FOLDERS:
        for folder in sorted(Path("/").glob(pattern.lstrip("/")), reverse=True):
            if found := shutil.which(name, path=str(folder)):
                return found
    return None


def apt_line(missing: list[str]) -> str:
    """The one line that installs these programs (keys of `PROGRAMS`)."""
    return f"apt-get install -y --no-install-recommends {' '.join(PROGRAMS[name] for name in missing)}"


def _has_environment(paths: Paths) -> bool:
    try:
        return find_environment(paths) is not None
    except LauncherError:
        return False


def _get_status(host: str, port: int, path: str) -> int | None:
    """The HTTP status that a server answers, or None where none answers."""
    connection = http.client.HTTPConnection(host, port, timeout=PROBE_TIMEOUT_S)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def print_checks(checks: list[Check], write: Callable[[str], object] = sys.stdout.write) -> bool:
    """Writes one line a check and returns whether everything that `make serve` needs is there."""
    for check in checks:
        mark = "ok  " if check.ok else ("-   " if check.optional else "FAIL")
        write(f"{mark} {check.name}: {check.detail}{'' if check.ok or not check.remedy else f' -> {check.remedy}'}\n")
    return all(check.ok or check.optional for check in checks)


def report_left_out() -> list[str]:
    """Says which programs the tests went without, and the one line that installs them; returns their names."""
    missing = [check.name for check in check_programs() if not check.ok]
    if missing:
        print(f"left out: the tests that need {', '.join(missing)}. To run all of them: {apt_line(missing)}")
    return missing


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 1 when something is missing that `make serve` needs.

    With `--left-out` it says only which programs the tests lack; `--strict` makes that exit status 1.
    """
    parser = argparse.ArgumentParser(prog="launcher.doctor")
    parser.add_argument("--left-out", action="store_true")
    parser.add_argument("--strict", action="store_true")
    given = parser.parse_args(arguments)
    if given.left_out:
        return 1 if report_left_out() and given.strict else 0
    try:
        return 0 if print_checks(run_checks()) else 1
    except LauncherError as error:
        print(f"starling: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
