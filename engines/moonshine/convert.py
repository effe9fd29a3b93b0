"""Turns the packaged Moonshine files into the graphs that the engine runs: once, at set-up.

Usage: ``python -m engines.moonshine.convert ASSET_DIR OUT_DIR``
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from engines.moonshine import graphs, weights
from engines.runtime.builder import Precision

PRECISIONS: tuple[Precision, ...] = ("int8", "fp32", "fp16")


def convert(asset_dir: Path, out_dir: Path) -> None:
    """Writes ``encoder.<precision>.onnx`` and ``decoder.<precision>.onnx`` for each precision, and ``tokenizer.bin``.

    Args:
        asset_dir: folder with ``encoder_model.ort``, ``decoder_model_merged.ort`` and ``tokenizer.bin``.
        out_dir: is made if it is missing; files in it are replaced one at a time, each whole.

    Raises:
        FileNotFoundError: an asset is missing.
        ValueError: an asset is not what it should be.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    encoder = weights.read(_asset(asset_dir, "encoder_model.ort"))
    decoder = weights.read(_asset(asset_dir, "decoder_model_merged.ort"))
    for precision in PRECISIONS:
        _write(out_dir / f"encoder.{precision}.onnx", graphs.build_encoder(encoder, decoder, precision))
        _write(out_dir / f"decoder.{precision}.onnx", graphs.build_decoder(decoder, precision))
    shutil.copyfile(_asset(asset_dir, "tokenizer.bin"), out_dir / "tokenizer.bin")


def _asset(folder: Path, name: str) -> Path:
    path = folder / name
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: it comes with the moonshine-voice 0.0.59 wheel")
    return path


def _write(path: Path, data: bytes) -> None:
    partial = path.with_suffix(".part")
    partial.write_bytes(data)
    partial.replace(path)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python -m engines.moonshine.convert ASSET_DIR OUT_DIR")
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
