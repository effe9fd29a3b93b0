from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch", reason="left out: torch belongs to the training's own environment")

import onnx  # noqa: E402
import onnxruntime  # noqa: E402

from training.punctuation.export import export  # noqa: E402
from training.punctuation.exported import read_exported  # noqa: E402
from training.punctuation.network import Tagger  # noqa: E402
from training.punctuation.train import rate_share  # noqa: E402
from training.punctuation.tune import _ascend, _Predictions, _typical_ends  # noqa: E402

# torch prefers its newer exporter, which writes other names.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

VOCABULARY = 50


def trained() -> Tagger:
    torch.manual_seed(1)
    tagger = Tagger(2, vocabulary=VOCABULARY)
    # Fresh hints are zero and fresh norms one: weights that are mixed up must show.
    for parameter in tagger.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    tagger.eval()
    return tagger


def columns() -> NDArray[np.int32]:
    rng = np.random.default_rng(1)
    drawn: NDArray[np.int32] = np.concatenate(
        [rng.integers(1, VOCABULARY, (3, 1, 20)), rng.integers(0, 2, (3, 4, 20))], axis=1, dtype=np.int32
    )
    return drawn


def logits(tagger: Tagger) -> list[NDArray[np.float32]]:
    with torch.no_grad():
        return [out.numpy() for out in tagger(torch.from_numpy(columns()).long())]


@pytest.fixture(name="path")
def exported(tmp_path: Path) -> Path:
    export(trained(), tmp_path / "punctuation.onnx")
    return tmp_path / "punctuation.onnx"


def test_a_network_that_is_read_back_computes_what_the_file_computes(path: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    wanted = session.run(["marks", "cases"], {"columns": columns()})
    for want, got in zip(wanted, logits(read_exported(path)), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-3)
        assert (got.argmax(-1) == want.argmax(-1)).all()


def test_weights_that_are_read_back_differ_by_the_rounding_alone(path: Path) -> None:
    want, got = trained().state_dict(), read_exported(path).state_dict()
    assert want.keys() == got.keys()
    for name, weight in want.items():
        stored = weight.ndim == 2 and weight.numel() >= 4096 and name != "positions.weight"
        step = weight.abs().max(1).values[:, None] / 127 if stored else torch.zeros(1)
        assert (weight - got[name]).abs().le(0.51 * step).all(), name


def test_a_network_that_is_read_back_and_written_again_stays_the_same(path: Path, tmp_path: Path) -> None:
    first = read_exported(path)
    export(first, tmp_path / "again.onnx")
    for name, weight in read_exported(tmp_path / "again.onnx").state_dict().items():
        torch.testing.assert_close(weight, first.state_dict()[name], rtol=1e-6, atol=0)


def test_another_network_is_refused(path: Path) -> None:
    model = onnx.load(str(path))
    (bias,) = (tensor for tensor in model.graph.initializer if tensor.name == "marks.bias")
    model.graph.initializer.remove(bias)
    onnx.save(model, str(path))
    with pytest.raises(ValueError, match="does not hold the network"):
        read_exported(path)


@pytest.mark.parametrize(
    ("turn", "done", "share"), [(1, 0.0, 0.1), (10, 0.25, 0.75), (500, 0.5, 0.5), (500, 1.0, 0.0), (3, 1.2, 0.0)]
)
def test_rates_rise_at_first_and_fall_to_zero(turn: int, done: float, share: float) -> None:
    assert rate_share(turn, done, warm_up=10) == pytest.approx(share)


def test_offsets_are_tuned_on_ends_of_which_one_in_three_is_open() -> None:
    truth = np.array([0, 1, *[2] * 20, 0])
    found = _Predictions(np.zeros((23, 5), np.float32), truth, np.arange(23) < 22)
    places = _typical_ends(found, seed=1)
    assert len(set(places.tolist())) == 6
    assert (found.truth[places] < 2).sum() == 2
    assert 22 not in places


def test_a_mark_that_is_foretold_too_seldom_gets_an_offset() -> None:
    truth = np.array([0] * 20 + [1] * 10)
    scores = np.zeros((30, 5), np.float32)
    scores[:, 2:] = -9.0
    scores[:20, 1], scores[20:, 1] = -2.0, -0.5
    offsets = _ascend(scores, truth)
    assert 0.5 < offsets[1] < 2.0
    assert offsets[2:] == [0.0, 0.0, 0.0]
