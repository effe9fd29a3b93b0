"""Makes the checkout's own environment, `.venv`: `python3 -m launcher.bootstrap gateway` or `... dev`.

It runs under whatever `python3` is, so it checks the version before it imports anything that a newer one is needed for.
"""

import sys

if sys.version_info < (3, 11):  # noqa: UP036 - this file is what tells those who have an older one
    sys.exit(
        "starling: Python 3.11 or newer is needed, this is %d.%d: install one, then run `make PYTHON=python3.11 ...`"  # noqa: UP031
        % sys.version_info[:2]
    )

import hashlib
import json
from pathlib import Path

from launcher.base_python import check_packages, choose_base_python
from launcher.errors import LauncherError
from launcher.lock import file_lock
from launcher.paths import SOURCE_ROOT
from launcher.progress import Reporter
from launcher.venv import create_venv, has_pip, install_locked, run_pip

LOCKS = {"gateway": ("build", "gateway"), "dev": ("build", "gateway", "dev")}
"""What each kind of environment holds; `dev` holds all of `gateway`."""
LOCK_TIMEOUT_S = 1800.0


def bootstrap(kind: str, root: Path, reporter: Reporter) -> None:
    """Makes `.venv` hold what `kind` (a key of `LOCKS`) needs; where it does, nothing is done.

    Raises:
        LauncherError: Python, pip or the network is not up to it.
    """
    venv = root / ".venv"
    with file_lock(
        root / ".starling" / "venv.lock",
        timeout_s=LOCK_TIMEOUT_S,
        busy="another make prepares .venv",
        on_wait=reporter.step,
    ):
        done = _read_stamp(venv)
        wanted = {name: _digest(root, name) for name in LOCKS[kind]} | {"project": _project_digest(root)}
        if wanted.items() <= done.items():
            return
        if not has_pip(venv / "bin" / "python"):
            check_packages(choose_base_python())
            reporter.step(f"making {venv}")
            create_venv(venv, Path(sys.executable))
            done = {}
        if any(done.get(name) != wanted[name] for name in LOCKS[kind]):
            python = venv / "bin" / "python"
            locks = [root / "requirements" / f"{name}.txt" for name in ("build", kind)]
            reporter.step(f"checking the packages of requirements/{kind}.txt")
            install_locked(python, locks, f"requirements/{kind}.txt", reporter)
        reporter.step("installing starling itself (editable)")
        project = ["install", "--no-deps", "--no-build-isolation", "--no-index", "--editable", str(root)]
        run_pip(venv / "bin" / "python", project, "starling itself", reporter)
        (venv / ".starling.json").write_text(json.dumps({**done, **wanted}))


def _digest(root: Path, name: str) -> str:
    return hashlib.sha256((root / "requirements" / f"{name}.txt").read_bytes()).hexdigest()


def _project_digest(root: Path) -> str:
    """What the editable install depends on."""
    return hashlib.sha256((root / "pyproject.toml").read_bytes() + str(root).encode()).hexdigest()


def _read_stamp(venv: Path) -> dict[str, str]:
    try:
        data = json.loads((venv / ".starling.json").read_text())
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) and (venv / "bin" / "python").exists() else {}


def main() -> int:
    """Runs `bootstrap` for the kind that the command line names."""
    if len(sys.argv) != 2 or sys.argv[1] not in LOCKS:
        print(f"usage: python -m launcher.bootstrap {'|'.join(LOCKS)}", file=sys.stderr)
        return 2
    try:
        bootstrap(sys.argv[1], SOURCE_ROOT, Reporter())
    except LauncherError as error:
        print(f"starling: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstarling: interrupted; run it again to go on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
