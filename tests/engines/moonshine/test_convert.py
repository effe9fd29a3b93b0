from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from engines.moonshine import graphs, weights
from engines.moonshine.convert import convert
from engines.runtime.linear import Linear


@pytest.fixture(scope="session")
def assets() -> Path:
    cache = Path(os.environ.get("STARLING_CACHE_DIR") or "~/.cache/starling").expanduser()
    folder = cache / "originals" / "moonshine-tiny-en"
    if not folder.is_dir():
        pytest.fail(f"{folder} is missing: run `make setup` first")
    return folder


@pytest.fixture(scope="session")
def decoder_weights(assets: Path) -> weights.Weights:
    return weights.read(assets / "decoder_model_merged.ort")


def test_finds_every_matrix_of_the_decoder(decoder_weights: weights.Weights) -> None:
    kinds = [f"{part}_attn.{kind}_proj" for part in ("self", "encoder") for kind in "qkvo"] + ["mlp.fc1", "mlp.fc2"]
    expected = {f"layers.{layer}.{kind}" for layer in range(6) for kind in kinds} | {"embed_tokens", "proj_out"}
    assert set(decoder_weights.linears) == expected


def test_signed_codes_hold_the_packaged_weights() -> None:
    matrix = Linear(np.array([[-128, 127]], np.int8), np.array([0.5, 2.0], np.float32), np.array([-2, 3], np.int8))
    assert matrix.dense.tolist() == [[-63.0, 248.0]]


def test_rounding_to_int8_is_off_by_half_a_step_at_most() -> None:
    weight = np.random.default_rng(0).normal(size=(50, 7)).astype(np.float32)
    matrix = Linear.quantise(weight)
    assert (np.abs(matrix.dense - weight) <= matrix.scales * 0.5001).all()


def test_matches_the_packaged_encoder(assets: Path, cut_windows) -> None:  # type: ignore[no-untyped-def]
    """The float graph against the packaged int8 one: as close as that one's rounding lets it be."""
    encoder, decoder = (weights.read(assets / f"{name}.ort") for name in ("encoder_model", "decoder_model_merged"))
    built = ort.InferenceSession(graphs.build_encoder(encoder, decoder, "fp32"), providers=["CPUExecutionProvider"])
    packaged = ort.InferenceSession(str(assets / "encoder_model.ort"), providers=["CPUExecutionProvider"])
    for samples in cut_windows(3, seed=8):
        audio = samples.astype(np.float32)[None] / 32768
        (hidden,) = packaged.run(None, {"input_values": audio, "attention_mask": np.ones(audio.shape, np.int64)})
        windows = np.lib.stride_tricks.sliding_window_view(audio, 127, axis=1)[:, ::64]
        (cross,) = built.run(None, {"windows": np.ascontiguousarray(windows)})
        assert cross.shape == (12, 1, 8, hidden.shape[1], 36)
        keys = hidden[0] @ decoder.linears["layers.0.encoder_attn.k_proj"].dense
        got = cross[0, 0].transpose(1, 0, 2).reshape(keys.shape)
        assert np.corrcoef(keys.ravel(), got.ravel())[0, 1] > 0.98


def test_converts_twice_to_the_same_files(assets: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    convert(assets, first)
    convert(assets, second)
    names = sorted(path.name for path in first.iterdir())
    graph_names = [
        f"{part}.{precision}.onnx" for part in ("decoder", "encoder") for precision in ("fp16", "fp32", "int8")
    ]
    assert names == [*graph_names, "tokenizer.bin"]
    assert all((first / name).read_bytes() == (second / name).read_bytes() for name in names)


def test_a_missing_asset_says_where_it_comes_from(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="moonshine-voice"):
        convert(tmp_path, tmp_path / "out")


def test_a_graph_of_something_else_is_refused(tmp_path: Path) -> None:
    from onnx import TensorProto, helper

    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Abs", ["x"], ["y"])],
        "other",
        [value("x", TensorProto.FLOAT, [1])],
        [value("y", TensorProto.FLOAT, [1])],
    )
    path = tmp_path / "other.onnx"
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ValueError, match="no quantised matrices"):
        weights.read(path)
