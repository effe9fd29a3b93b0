from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from launcher.errors import LauncherError
from launcher.paths import SOURCE_ROOT, Paths
from launcher.repository import LINK_BYTES, ModelPlan, assemble, default_plans, render


def _template(root: Path, name: str, config: str) -> Path:
    folder = root / name / "1"
    folder.mkdir(parents=True)
    (folder / "model.py").write_text("model")
    (root / name / "config.pbtxt").write_text(config)
    return root


def test_placeholders_are_filled_and_quoted(tmp_path: Path) -> None:
    config = 'dir: "${model_dir}" count: ${instances} kind: ${kind} device: "${device}" threads: "${threads}" cost: $$1'
    templates = _template(tmp_path / "templates", "asr", config)
    plan = ModelPlan("asr", Path('/a "b"\\c'), instances=2, device="cuda", threads=3)

    repository = assemble(templates, tmp_path / "repository", [plan])

    text = (repository / "asr" / "config.pbtxt").read_text()
    assert text == 'dir: "/a \\"b\\"\\\\c" count: 2 kind: KIND_GPU device: "cuda" threads: "3" cost: $1'
    assert (repository / "asr" / "1" / "model.py").read_text() == "model"


def test_an_unknown_placeholder_is_named(tmp_path: Path) -> None:
    templates = _template(tmp_path, "asr", "${colour}")

    with pytest.raises(LauncherError, match=r"cannot be filled \('colour'\): use \$\{model_dir\}"):
        assemble(templates, tmp_path / "repository", [ModelPlan("asr", tmp_path)])


def test_a_new_repository_replaces_the_old_one(tmp_path: Path) -> None:
    templates = _template(_template(tmp_path / "templates", "a", "a"), "b", "b")
    target = tmp_path / "repository"
    assemble(templates, target, [ModelPlan("a", tmp_path), ModelPlan("b", tmp_path)])

    assemble(templates, target, [ModelPlan("b", tmp_path)])

    assert [path.name for path in target.iterdir()] == ["b"]


def test_large_files_are_linked_and_caches_left_out(tmp_path: Path) -> None:
    templates = _template(tmp_path / "templates", "punctuation", "x")
    version = templates / "punctuation" / "1"
    (version / "model.onnx").write_bytes(b"x" * LINK_BYTES)
    (version / "__pycache__").mkdir()

    repository = assemble(templates, tmp_path / "repository", [ModelPlan("punctuation", version)])

    assert (repository / "punctuation" / "1" / "model.onnx").readlink() == version / "model.onnx"
    assert not (repository / "punctuation" / "1" / "__pycache__").exists()


def test_nothing_to_serve_and_unknown_models_are_errors(tmp_path: Path) -> None:
    with pytest.raises(LauncherError, match="no model to serve: run `make setup`"):
        assemble(tmp_path, tmp_path / "repository", [])
    with pytest.raises(LauncherError, match="there is no model hindi"):
        assemble(tmp_path, tmp_path / "repository", [ModelPlan("hindi", tmp_path)])


def test_only_models_with_weights_are_planned(paths: Paths) -> None:
    templates = paths.source / "triton_models"
    for name in ("asr", "asr_multilingual", "punctuation"):
        _template(templates, name, "x")
    assert default_plans(paths) == []

    (paths.models / "moonshine-tiny-en").mkdir(parents=True)
    (paths.models / "moonshine-tiny-en" / "encoder.onnx").touch()
    (templates / "punctuation" / "1" / "model.onnx").touch()

    plans = default_plans(paths, device="cuda", threads=4, instances={"asr": 2})
    assert plans == [
        ModelPlan("asr", paths.models / "moonshine-tiny-en", 2, "cuda", 4),
        ModelPlan("punctuation", templates / "punctuation" / "1", 1, "cuda", 4),
    ]


def test_a_speech_model_has_an_instance_for_each_core_up_to_what_its_weights_allow(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, weights in (("asr", "moonshine-tiny-en"), ("asr_multilingual", "whisper-base")):
        _template(paths.source / "triton_models", name, "x")
        (paths.models / weights).mkdir(parents=True)
        (paths.models / weights / "encoder.onnx").touch()

    def shapes(cores: int, **options: Any) -> list[tuple[int, int]]:
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)))
        return [(plan.instances, plan.threads) for plan in default_plans(paths, **options)]

    assert shapes(1) == [(1, 1), (1, 1)]
    assert shapes(2) == [(2, 1), (2, 1)]
    assert shapes(24) == [(8, 3), (2, 12)]
    assert shapes(4, instances={"asr": 1}) == [(1, 4), (2, 2)]
    assert shapes(4, device="cuda") == [(1, 4), (1, 4)]


def test_other_weights_are_a_setting(paths: Paths, tmp_path: Path) -> None:
    _template(paths.source / "triton_models", "asr", "x")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "encoder.onnx").touch()

    (plan,) = default_plans(paths, model_dirs={"asr": tmp_path / "other"})

    assert plan.model_dir == tmp_path / "other"
    assert plan.threads >= 1


@pytest.mark.parametrize("template", sorted((SOURCE_ROOT / "triton_models").glob("*/config.pbtxt")), ids=str)
def test_every_template_of_the_project_can_be_filled(template: Path) -> None:
    text = render(template, ModelPlan(template.parent.name, Path("/weights"), threads=7))

    assert f'name: "{template.parent.name}"' in text
    assert "${" not in text
