"""Adds to a Whisper model in CTranslate2's form the graphs that decode with drafts: once, at set-up.

Usage: ``python -m engines.whisper.convert MODEL_DIR OUT_DIR``
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from engines.whisper import graphs, weights

NO_SPEECH = "<|nospeech|>"
_FILES = ("model.bin", "config.json", "vocabulary.json", "tokenizer.json")


def convert(model_dir: Path, out_dir: Path) -> None:
    """Writes ``cross.int8.onnx`` and ``decoder.int8.onnx``, and copies or links the model's own files beside them.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: it is not a Whisper model in CTranslate2's form.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    for name in _FILES:
        if not (model_dir / name).is_file():
            raise FileNotFoundError(f"{model_dir / name} is missing: it is a part of every CTranslate2 Whisper model")
    variables = weights.read(model_dir / "model.bin")
    suppressed = json.loads((model_dir / "config.json").read_text())["suppress_ids"]
    tokens: list[str] = json.loads((model_dir / "vocabulary.json").read_text())
    (out_dir / "cross.int8.onnx").write_bytes(graphs.build_cross(variables))
    decoder = graphs.build_decoder(variables, suppressed, tokens.index(NO_SPEECH))
    (out_dir / "decoder.int8.onnx").write_bytes(decoder)
    for name in _FILES:
        _place(model_dir / name, out_dir / name)


def _place(source: Path, target: Path) -> None:
    """A second name for the same bytes, where the file system has such a thing."""
    target.unlink(missing_ok=True)
    try:
        target.hardlink_to(source)
    except OSError:
        shutil.copyfile(source, target)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python -m engines.whisper.convert MODEL_DIR OUT_DIR")
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
