"""How the models are to be served, as the environment says: for machines that differ from the default.

`STARLING_MODEL_INSTANCES={"asr": 2}`, `STARLING_MODEL_THREADS=4` and `STARLING_MODEL_DIRS={"asr_multilingual":
"/models/whisper-small"}` concern Triton alone, so they are no settings of the gateway.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from launcher.errors import LauncherError
from launcher.paths import Paths
from launcher.repository import Device, ModelPlan, default_plans

INSTANCES = "STARLING_MODEL_INSTANCES"
THREADS = "STARLING_MODEL_THREADS"
DIRS = "STARLING_MODEL_DIRS"


def plans_from_environment(
    paths: Paths, device: Device, environment: Mapping[str, str] | None = None
) -> list[ModelPlan]:
    """Plans for every model whose weights are present.

    Raises:
        LauncherError: a value that makes no sense; the text names it.
    """
    env = os.environ if environment is None else environment
    instances = {}
    for name, count in _mapping(env, INSTANCES, '{"asr": 2}').items():
        if not isinstance(count, int) or not 0 < count <= 64:
            raise LauncherError(f"{INSTANCES}: {name} has {count!r}", "give a number from 1 to 64")
        instances[name] = count
    folders = {}
    for name, folder in _mapping(env, DIRS, '{"asr": "/models/other"}').items():
        if not (isinstance(folder, str) and Path(folder).is_dir()):
            raise LauncherError(f"{DIRS}: {name} has {folder!r}", "give a folder that exists")
        folders[name] = Path(folder).absolute()
    text = env.get(THREADS, "")
    if text and not (text.isdecimal() and 0 < int(text) <= 256):
        raise LauncherError(f"{THREADS}={text} is no number of threads", "give a number from 1 to 256")
    plans = default_plans(
        paths, device=device, threads=int(text) if text else None, instances=instances, model_dirs=folders
    )
    unknown = (instances.keys() | folders.keys()) - {plan.name for plan in plans}
    if unknown:
        served = ", ".join(plan.name for plan in plans)
        raise LauncherError(f"there is no model {min(unknown)}, or it has no weights", f"take one of {served}")
    return plans


def _mapping(env: Mapping[str, str], name: str, example: str) -> dict[str, object]:
    try:
        value = json.loads(env.get(name) or "{}")
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise LauncherError(f"{name} is no JSON object", f"write it like {example}")
    return value
