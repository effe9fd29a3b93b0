"""The documents that a reader relies on: there, up to date, and no link that leads nowhere."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from launcher.paths import SOURCE_ROOT
from launcher.plans import DIRS, INSTANCES, THREADS
from server.config import Settings
from server.describe import GROUPS, page
from tests.deploy.locks import RUNTIME, locked

PAGES = sorted(
    path
    for folder in ("", "docs", "docs/decisions", "engines", "perf", "training/punctuation", "deploy/helm")
    for path in (SOURCE_ROOT / folder).glob("*.md")
)


def anchors(path: Path) -> set[str]:
    """What a link into a page can name, as GitHub makes them."""
    text = re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("document", PAGES, ids=lambda path: str(path.relative_to(SOURCE_ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    text = re.sub(r"```.*?```", "", document.read_text(), flags=re.DOTALL)
    for link in re.findall(r"\[[^\]]*\]\(([^)\s]+)\)", text):
        if link.startswith(("http://", "https://", "mailto:")):
            continue
        target, _, anchor = link.partition("#")
        path = (document.parent / target).resolve() if target else document
        assert path.exists(), link
        if anchor and path.suffix == ".md":
            assert anchor in anchors(path), link


def test_the_configuration_page_is_up_to_date() -> None:
    text = (SOURCE_ROOT / "docs" / "configuration.md").read_text()
    assert text == page(), "run: .venv/bin/python -m server.describe > docs/configuration.md"
    assert {f"STARLING_{name.upper()}" for name in Settings.model_fields} >= set(GROUPS)
    assert all(f"## {title}\n" in text for title in GROUPS.values())


def test_every_setting_that_the_code_reads_is_documented() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "server", "launcher", "client", "engines", "session_store", "Dockerfile.*", "compose.yaml"],
        cwd=SOURCE_ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    ).stdout.split()
    files = [SOURCE_ROOT / name for name in listed if name.endswith((".py", ".yaml", ".server", ".triton"))]
    read = set().union(*(re.findall(r"STARLING_[A-Z_]*[A-Z]", file.read_text()) for file in files if file.exists()))
    of_the_balancer = {"STARLING_BIND", "STARLING_STATS_BIND", "STARLING_GATEWAY"}
    not_settings = {"STARLING_INTERNAL_WORKER", "STARLING_TRITON", "STARLING_NAME", "STARLING"}
    documented = set(re.findall(r"STARLING_[A-Z_]*[A-Z]", page())) | {DIRS, INSTANCES, THREADS}
    assert read - of_the_balancer - not_settings - documented == set()


def test_licence_and_changes() -> None:
    assert "Apache License" in (SOURCE_ROOT / "LICENSE").read_text()
    version = re.search(r'^version = "(.+)"$', (SOURCE_ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version is not None
    assert f"## {version[1]}" in (SOURCE_ROOT / "CHANGELOG.md").read_text()


def test_the_notices_name_every_package_at_run_time() -> None:
    text = (SOURCE_ROOT / "THIRD_PARTY_NOTICES.md").read_text()
    named = dict(re.findall(r"^\| ([A-Za-z0-9_.-]+) \| ([^|]+) \|$", text, re.MULTILINE))
    needed = set().union(*(locked(name) for name in RUNTIME))
    assert needed - named.keys() == set()
    assert named.keys() - needed - {"package", "what", "---"} == set()
    assert all(licence.strip() for licence in named.values())


@pytest.mark.parametrize(
    ("document", "question"),
    [
        ("operations.md", "## How many streams does this machine carry?"),
        ("operations.md", "## What happens when Triton dies?"),
        ("models.md", "## How do I add Hindi?"),
        ("deploy.md", "## How do I roll out without losing a word?"),
    ],
)
def test_a_readers_questions_have_answers(document: str, question: str) -> None:
    text = (SOURCE_ROOT / "docs" / document).read_text()
    answer = text.partition(f"{question}\n")[2].partition("\n## ")[0]
    assert len(answer.split()) > 50
