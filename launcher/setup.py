"""Set-up of one machine: `python -m launcher.setup`. Run again, it finishes what was interrupted and repairs."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from launcher.errors import LauncherError
from launcher.lock import file_lock
from launcher.paths import Paths
from launcher.plans import plans_from_environment
from launcher.progress import Reporter
from launcher.repository import ModelPlan, assemble
from launcher.triton import TritonOptions, TritonProcess
from launcher.triton_env import TritonEnvironment, ensure_environment
from launcher.weight_pins import ALL_WEIGHTS
from launcher.weights import ensure_converted, ensure_published

LOCK_TIMEOUT_S = 3600.0


@dataclass(frozen=True, slots=True)
class Installation:
    """What set-up made ready."""

    paths: Paths
    triton: TritonEnvironment

    def triton_process(
        self, options: TritonOptions | None = None, plans: Sequence[ModelPlan] | None = None
    ) -> TritonProcess:
        """Puts the model repository together in the state folder and returns a Triton on it, not started yet.

        Args:
            options: ports and limits.
            plans: what to serve; every model whose weights are here, as the environment says, when None.

        Raises:
            LauncherError: there is nothing to serve.
        """
        options = options or TritonOptions()
        if plans is None:
            plans = plans_from_environment(self.paths, "cuda" if options.gpu else "cpu")
        repository = assemble(self.paths.source / "triton_models", self.paths.repository, plans)
        return TritonProcess(self.triton, repository, self.paths.state, self.paths.source, options)


def set_up(paths: Paths, reporter: Reporter) -> Installation:
    """Makes Triton's environment and all weights present; where they are, it takes no time and no network.

    Two set-ups on one cache take turns.

    Raises:
        LauncherError: something is missing that the message names.
    """
    try:
        with file_lock(
            paths.setup_lock, timeout_s=LOCK_TIMEOUT_S, busy="another set-up is running", on_wait=reporter.step
        ):
            return _set_up(paths, reporter)
    except PermissionError as error:
        raise LauncherError(
            f"{error.filename} cannot be written", "set STARLING_CACHE_DIR to a folder of yours"
        ) from None
    except OSError as error:
        raise LauncherError(
            f"{error.strerror or error} ({error.filename or paths.cache})", "then run this again"
        ) from None


def _set_up(paths: Paths, reporter: Reporter) -> Installation:
    _remove_leftovers(paths)
    environment = ensure_environment(paths, reporter)
    for pin in ALL_WEIGHTS:
        # The environment's pip: the running Python may have none.
        ensure_published(pin, paths, reporter, python=environment.python)
    for pin in ALL_WEIGHTS:
        if pin.converter is not None:
            ensure_converted(pin, paths, reporter, environment.python)
    return Installation(paths, environment)


def _remove_leftovers(paths: Paths) -> None:
    """Under the lock nobody else downloads: what lies there was left by a run that was killed."""
    shutil.rmtree(paths.downloads, ignore_errors=True)


def main() -> int:
    """Sets up and says where everything is. Exit status 1 with one line when something is missing."""
    paths = Paths.from_environment()
    reporter = Reporter()
    try:
        installation = set_up(paths, reporter)
    except LauncherError as error:
        print(f"starling: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstarling: set-up interrupted; run it again to go on", file=sys.stderr)
        return 130
    reporter.step(f"ready: models in {paths.models}, Triton in {installation.triton.root}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
