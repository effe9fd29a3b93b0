"""Triton in a container: puts the model repository together, then becomes the server.

`python3 -m launcher.container`, in an image that carries Triton and the models' packages; needs no other package.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from launcher.errors import LauncherError
from launcher.paths import Paths
from launcher.plans import plans_from_environment
from launcher.repository import Device, assemble

SERVER = "tritonserver"
GRPC_PORT, METRICS_PORT, HTTP_PORT = 8001, 8002, 8003
EXIT_TIMEOUT_S = 20
"""Requests in flight end in this time when the container is told to stop; the gateways send late ones elsewhere."""


def server_command(repository: Path, device: Device) -> list[str]:
    """The program and its flags; the addresses are open, for what the container does not publish nobody reaches."""
    flags = {
        "model-repository": repository,
        # Explicit control is what lets a model with a dead stub be unloaded and loaded.
        "model-control-mode": "explicit",
        "load-model": "*",
        "grpc-port": GRPC_PORT,
        "metrics-port": METRICS_PORT,
        "http-port": HTTP_PORT,
        "exit-timeout-secs": EXIT_TIMEOUT_S,
    }
    if device == "cpu":
        flags |= {"allow-gpu-metrics": "false", "pinned-memory-pool-byte-size": 0}
    return [SERVER, "--disable-auto-complete-config", *(f"--{name}={value}" for name, value in flags.items())]


def prepare(environment: Mapping[str, str]) -> list[str]:
    """Writes the repository that the environment asks for and returns the command that serves it.

    Raises:
        LauncherError: a setting is wrong, or there are no weights.
    """
    device = environment.get("STARLING_TRITON_DEVICE") or "cuda"
    if device not in ("cpu", "cuda"):
        raise LauncherError(f"STARLING_TRITON_DEVICE={device} is no device", "give cpu or cuda")
    paths = Paths.from_environment(environment)
    plans = plans_from_environment(paths, device, environment)  # type: ignore[arg-type]
    if not any(plan.name.startswith("asr") for plan in plans):
        raise LauncherError(
            f"there are no speech models in {paths.models}",
            "mount a cache made by `make setup` there, or build the image with --build-arg WEIGHTS=baked",
        )
    paths.state.mkdir(parents=True, exist_ok=True)
    repository = assemble(paths.source / "triton_models", paths.repository, plans)
    return server_command(repository, device)  # type: ignore[arg-type]


def main() -> int:
    """Replaces this process by Triton; comes back only where that fails."""
    try:
        command = prepare(os.environ)
        os.execvp(command[0], command)
    except LauncherError as error:
        print(f"starling: {error}", file=sys.stderr)
    except OSError as error:
        print(f"starling: {error}: run this in the image that Dockerfile.triton makes", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
