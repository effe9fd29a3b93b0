from __future__ import annotations

import re
from pathlib import Path

import pytest

from launcher.paths import SOURCE_ROOT
from launcher.repository import ModelPlan, render

MODELS = ["asr", "asr_multilingual"]


def _config(name: str, plan: ModelPlan) -> str:
    return render(SOURCE_ROOT / "triton_models" / name / "config.pbtxt", plan)


@pytest.mark.parametrize("name", MODELS)
def test_the_template_takes_every_setting(name: str) -> None:
    text = _config(name, ModelPlan(name, Path("/some/weights"), instances=3, device="cuda", threads=5))
    assert "count: 3 kind: KIND_GPU" in text
    for key, value in {"MODEL_DIR": "/some/weights", "DEVICE": "cuda", "THREADS": "5"}.items():
        assert re.search(rf'key: "{key}" value: \{{ string_value: "{value}" \}}', text)


@pytest.mark.parametrize("name", MODELS)
def test_requests_of_mixed_length_share_a_batch(name: str) -> None:
    text = _config(name, ModelPlan(name, Path("/w")))
    assert re.search(r'"AUDIO".*allow_ragged_batch: true', text)
    assert re.search(r'"DRAFT".*allow_ragged_batch: true optional: true', text)
    assert "dynamic_batching { }" in text


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("word", ["queue_policy", "max_queue_size", "priority_levels", "preferred_batch_size"])
def test_there_is_no_queue_policy(name: str, word: str) -> None:
    assert word not in _config(name, ModelPlan(name, Path("/w")))
