"""Puts the model repository together that Triton is started on.

`triton_models/NAME/config.pbtxt` is a template: `${name}` stands for a value that depends on the machine (a plain
dollar sign is written `$$`). The placeholders are

- `${model_dir}`: folder of the weights, inside a quoted string;
- `${instances}`: how many instances;
- `${kind}`: `KIND_CPU` or `KIND_GPU`;
- `${device}`: `cpu` or `cuda`, for the engine;
- `${threads}`: threads that one instance may use.

The version folder `1/` and what it holds is taken over as it is.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Literal

from launcher.errors import LauncherError
from launcher.paths import Paths
from launcher.weight_pins import MOONSHINE_TINY, WHISPER_BASE

LINK_BYTES = 1_000_000
"""Files from this size are linked instead of copied."""

WEIGHT_FOLDERS = {"asr": MOONSHINE_TINY, "asr_multilingual": WHISPER_BASE}
MOST_INSTANCES = {"asr": 8, "asr_multilingual": 2}
"""On a CPU a model has, by default, an instance for each core up to so many; each is a process with weights of its own,
180 and 540 MB, and with the cores shared out for threads. An instance computes one batch at a time: while a long final
is under way, another one answers the partials behind it."""
Device = Literal["cpu", "cuda"]


@dataclass(frozen=True, slots=True)
class ModelPlan:
    """How one model is to be served.

    Attributes:
        name: folder under `triton_models/` and the model's name in Triton.
        model_dir: its weights.
        instances: processes that serve it; a batch goes to one of them.
        device: where it computes.
        threads: CPU threads for each instance.
    """

    name: str
    model_dir: Path
    instances: int = 1
    device: Device = "cpu"
    threads: int = 1

    def values(self) -> dict[str, str]:
        """The values of the placeholders."""
        return {
            "model_dir": str(self.model_dir).replace("\\", "\\\\").replace('"', '\\"'),
            "instances": str(self.instances),
            "kind": "KIND_GPU" if self.device == "cuda" else "KIND_CPU",
            "device": self.device,
            "threads": str(self.threads),
        }


def default_plans(
    paths: Paths,
    *,
    device: Device = "cpu",
    threads: int | None = None,
    instances: Mapping[str, int] | None = None,
    model_dirs: Mapping[str, Path] | None = None,
) -> list[ModelPlan]:
    """Plans for every model in the checkout whose weights are present.

    Args:
        paths: of this copy.
        device: where all of them compute.
        threads: for each instance; when None the cores this process may use, shared out to a model's instances.
        instances: model name to number of instances. Where it names none, 1 or, on a CPU, what suits the engine.
        model_dirs: model name to a folder with other weights of the same family.
    """
    cores = len(os.sched_getaffinity(0))
    plans = []
    for template in sorted((paths.source / "triton_models").glob("*/config.pbtxt")):
        name = template.parent.name
        folder = (model_dirs or {}).get(name) or _default_folder(name, template.parent, paths)
        if _has_weights(folder):
            most = MOST_INSTANCES.get(name, 1) if device == "cpu" else 1
            count = (instances or {}).get(name) or min(cores, most)
            plans.append(ModelPlan(name, folder, count, device, threads or max(1, cores // count)))
    return plans


def assemble(templates: Path, target: Path, plans: Sequence[ModelPlan]) -> Path:
    """Writes a model repository with these models and no others, and returns it.

    Args:
        templates: the checkout's `triton_models/`.
        target: replaced as a whole; no Triton may be running on it.
        plans: what to serve.

    Raises:
        LauncherError: a model or a placeholder that is not known, or nothing to serve.
    """
    if not plans:
        raise LauncherError("there is no model to serve", "run `make setup`, which fetches the weights")
    fresh = target.with_name(target.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    for plan in plans:
        source = templates / plan.name
        if not (source / "config.pbtxt").is_file():
            raise LauncherError(f"there is no model {plan.name}", f"take one of the folders in {templates}")
        folder = fresh / plan.name
        shutil.copytree(source / "1", folder / "1", copy_function=_copy_or_link, ignore=_ignore)
        (folder / "config.pbtxt").write_text(render(source / "config.pbtxt", plan))
    shutil.rmtree(target, ignore_errors=True)
    fresh.rename(target)
    return target


def assemble_stand_in(templates: Path, target: Path, plan: ModelPlan, program: Path) -> Path:
    """Writes a model repository in which another `program` answers in place of a model's own, and returns it.

    To clients it is the model: the configuration is the same. For benchmarks and tests.
    """
    version = target / plan.name / "1"
    version.mkdir(parents=True)
    shutil.copy(program, version / "model.py")
    (target / plan.name / "config.pbtxt").write_text(render(templates / plan.name / "config.pbtxt", plan))
    return target


def render(template: Path, plan: ModelPlan) -> str:
    """A `config.pbtxt` with its placeholders filled in.

    Raises:
        LauncherError: the template holds a placeholder that is not known.
    """
    try:
        return Template(template.read_text()).substitute(plan.values())
    except (KeyError, ValueError) as error:
        known = ", ".join(f"${{{name}}}" for name in plan.values())
        raise LauncherError(f"{template} has a placeholder that cannot be filled ({error})", f"use {known}") from None


def _default_folder(name: str, template: Path, paths: Paths) -> Path:
    pin = WEIGHT_FOLDERS.get(name)
    return pin.folder(paths) if pin else template / "1"


def _has_weights(folder: Path) -> bool:
    """Whether a folder holds more than the model's Python code."""
    if not folder.is_dir():
        return False
    return any(path.is_file() and path.suffix not in {".py", ".md"} for path in folder.iterdir())


def _copy_or_link(source: str, target: str) -> None:
    if os.stat(source).st_size >= LINK_BYTES:
        os.symlink(os.path.realpath(source), target)
    else:
        shutil.copy2(source, target)


def _ignore(_: str, names: list[str]) -> set[str]:
    return {name for name in names if name == "__pycache__" or name.endswith(".pyc")}
