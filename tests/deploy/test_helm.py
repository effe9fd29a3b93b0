"""The chart, without Helm: what its templates and values say of each other and of the settings."""

from __future__ import annotations

import re
from typing import Any

import yaml

from launcher.paths import SOURCE_ROOT
from server.config import Settings

CHART = SOURCE_ROOT / "deploy" / "helm" / "starling"
TEMPLATES = "\n".join(path.read_text() for path in sorted((CHART / "templates").iterdir()))
VALUES: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())


def _leaves(values: dict[str, Any], prefix: str = "") -> set[str]:
    paths = set()
    for name, value in values.items():
        path = f"{prefix}{name}"
        paths |= _leaves(value, f"{path}.") if isinstance(value, dict) and value else {path}
    return paths


def test_every_value_that_is_asked_for_exists() -> None:
    asked = set(re.findall(r"\.Values\.([A-Za-z.]+)", TEMPLATES))
    assert asked
    for path in asked:
        value: Any = VALUES
        for name in path.split("."):
            assert name in value, path
            value = value[name]


def test_every_value_is_used() -> None:
    asked = set(re.findall(r"\.Values\.([A-Za-z.]+)", TEMPLATES))
    unused = {
        leaf for leaf in _leaves(VALUES) if not any(leaf == path or leaf.startswith(f"{path}.") for path in asked)
    }
    assert not unused


def test_the_gateways_settings_exist() -> None:
    known = {f"STARLING_{field.upper()}" for field in Settings.model_fields} | {"STARLING_SECRETS_DIR"}
    named = set(re.findall(r"name: (STARLING_\w+)", (CHART / "templates" / "gateway.yaml").read_text()))
    assert named | set(VALUES["gateway"]["environment"]) <= known


def test_blocks_are_closed() -> None:
    opened = len(re.findall(r"\{\{-?\s*(?:if|range|with|define)\b", TEMPLATES))
    assert opened == len(re.findall(r"\{\{-?\s*end\b", TEMPLATES))


def test_versions_agree() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    project = re.search(r'^version = "(.+)"$', (SOURCE_ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert project is not None
    assert {chart["version"], chart["appVersion"]} == {project[1]}
    assert VALUES["image"]["server"]["tag"] == VALUES["image"]["triton"]["tag"] == project[1]
    compose = (SOURCE_ROOT / "compose.yaml").read_text()
    assert set(re.findall(r"image: starling-\S+:(\S+)", compose)) == {project[1]}
