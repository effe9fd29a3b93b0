"""`compose.yaml` against the settings, the images and the files it names."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from launcher.paths import SOURCE_ROOT
from server.config import Settings, load
from server.serve import check_exposure
from session_store.factory import open_session_store, open_transcript_store

Service = dict[str, Any]


@pytest.fixture(autouse=True)
def _no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("STARLING_"):
            monkeypatch.delenv(name)


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    parsed: dict[str, Any] = yaml.safe_load((SOURCE_ROOT / "compose.yaml").read_text())
    return parsed


def _settings(service: Service, secrets: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name, value in service["environment"].items():
        # `${NAME:-default}` with nothing in the environment is the default.
        monkeypatch.setenv(name, re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", value))
    monkeypatch.setenv("STARLING_SECRETS_DIR", str(secrets))
    monkeypatch.setenv("STARLING_HOST", "0.0.0.0")
    return load()


async def test_the_gateways_settings_are_right(
    compose: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secrets = _make_secrets(tmp_path)
    for name in ("gateway-1", "gateway-2"):
        service = compose["services"][name]
        settings = _settings(service, secrets / "gateway", monkeypatch)
        check_exposure(settings)
        known = {f"STARLING_{field.upper()}" for field in Settings.model_fields} | {"STARLING_SECRETS_DIR"}
        assert set(service["environment"]) <= known
        assert settings.triton_addresses == ["triton:8001"]
        assert settings.otlp_endpoint == ""
        assert settings.drain_s < float(service["stop_grace_period"].removesuffix("s"))
        session, transcript = (
            open_session_store(settings.session_store),
            open_transcript_store(settings.transcript_store),
        )
        await session.close()
        await transcript.close()
        assert settings.session_store.endswith("@redis:6379/0")
        assert settings.transcript_store.endswith("@mariadb:3306/starling")


def _make_secrets(folder: Path) -> Path:
    for name in ("gateway", "redis", "mariadb", "grafana"):
        (folder / name).mkdir(exist_ok=True)
    script = SOURCE_ROOT / "deploy" / "compose" / "make-secrets.sh"
    subprocess.run(["sh", str(script), str(folder)], check=True, timeout=30)
    return folder


def test_secrets_are_made_once_and_fit_together(tmp_path: Path) -> None:
    def read() -> dict[str, str]:
        return {str(path.relative_to(tmp_path)): path.read_text() for path in tmp_path.rglob("*") if path.is_file()}

    _make_secrets(tmp_path)
    first = read()
    _make_secrets(tmp_path)
    assert read() == first
    passwords = [first[name] for name in ("redis/password", "mariadb/password", "mariadb/root_password")]
    assert len(set(passwords)) == 3
    assert all(re.fullmatch(r"[0-9a-f]{48}", password) for password in passwords)
    assert first["redis/password.conf"] == f"requirepass {first['redis/password']}\n"
    assert first["redis/password"] in first["gateway/starling_session_store"]
    assert first["mariadb/password"] in first["gateway/starling_transcript_store"]


def test_every_file_that_is_mounted_or_built_from_exists(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        for volume in service.get("volumes", []):
            source = volume.partition(":")[0]
            if source.startswith("./"):
                assert (SOURCE_ROOT / source).exists(), (name, source)
            else:
                assert source in compose["volumes"], (name, source)
        if "build" in service:
            assert (SOURCE_ROOT / service["build"]["dockerfile"]).is_file()


def test_services_are_limited_restarted_and_looked_after(compose: dict[str, Any]) -> None:
    images = {"gateway-1", "gateway-2", "triton", "triton-cpu"}  # these bring their check
    for name, service in compose["services"].items():
        assert {"cpus", "memory"} <= set(service["deploy"]["resources"]["limits"]), name
        assert service["restart"] == ("no" if name == "secrets" else "unless-stopped"), name
        assert "healthcheck" in service or name in images, name
        image = service["image"]
        assert re.search(r":v?\d+\.\d+", image), f"{image} is not pinned"


def test_nothing_is_published_beyond_loopback(compose: dict[str, Any]) -> None:
    published = [port for service in compose["services"].values() for port in service.get("ports", [])]
    assert len(published) == 3
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_no_secret_stands_in_the_tree(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        for name, value in service.get("environment", {}).items():
            if "PASSWORD" in name or "SECRET" in name:
                assert str(value).startswith("/run/secrets"), name


def test_either_triton_answers_to_the_same_name(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert services["triton"]["profiles"] == ["gpu"]
    assert services["triton-cpu"]["profiles"] == ["cpu"]
    assert (SOURCE_ROOT / ".env").read_text().splitlines()[-1] == "COMPOSE_PROFILES=gpu"
    for name, device in (("triton", "cuda"), ("triton-cpu", "cpu")):
        assert services[name]["networks"]["back"]["aliases"] == ["triton"]
        assert services[name]["build"]["args"] == {"DEVICE": device, "WEIGHTS": "baked"}
    assert "devices" in services["triton"]["deploy"]["resources"]["reservations"]
    assert "reservations" not in services["triton-cpu"]["deploy"]["resources"]


def test_the_balancer_gets_all_that_its_configuration_asks_for(compose: dict[str, Any]) -> None:
    text = (SOURCE_ROOT / "deploy" / "haproxy" / "haproxy.cfg").read_text()
    asked = set(re.findall(r"\$\{(\w+)", text))
    assert asked == set(compose["services"]["haproxy"]["environment"])
