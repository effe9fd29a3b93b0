"""The reader of CTranslate2 files, and what set-up makes of one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engines.whisper import weights
from engines.whisper.convert import convert
from engines.whisper.graphs import Size


def test_reads_what_ctranslate2_wrote(whisper_dir: Path) -> None:
    variables = weights.read(whisper_dir / "model.bin")
    size = Size.of(variables)
    assert (size.layers, size.heads, size.width, size.head_width) == (6, 8, 512, 64)
    table = variables["decoder/embeddings/weight"]
    assert table.shape == (51865, 512)
    assert table.dtype == np.float16
    assert variables["decoder/projection/weight"] is table
    assert np.isfinite(table.astype(np.float32)).all()


def test_a_file_of_another_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes((9).to_bytes(4, "little") + b"\x02\x00x\x00" + bytes(8))
    with pytest.raises(ValueError, match="version 9"):
        weights.read(path)


def test_a_file_that_is_cut_short_is_refused(whisper_dir: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    with (whisper_dir / "model.bin").open("rb") as whole:
        path.write_bytes(whole.read(2_000_000))
    with pytest.raises(ValueError, match="download"):
        weights.read(path)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is missing"):
        convert(tmp_path, tmp_path / "out")


def test_the_model_and_its_graphs_lie_side_by_side(whisper_dir: Path, tmp_path: Path) -> None:
    convert(whisper_dir, tmp_path)
    names = {"model.bin", "config.json", "vocabulary.json", "tokenizer.json", "cross.int8.onnx", "decoder.int8.onnx"}
    assert {path.name for path in tmp_path.iterdir()} == names
    assert (tmp_path / "decoder.int8.onnx").read_bytes() == (whisper_dir / "decoder.int8.onnx").read_bytes()
