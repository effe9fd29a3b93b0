"""The core has no I/O and no clock: nothing it imports, at any depth, brings one in."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
OURS = ("server", "session_store")
FORBIDDEN = {
    "asyncio", "socket", "socketserver", "ssl", "select", "selectors", "time", "datetime", "threading", "subprocess",
    "concurrent", "multiprocessing", "grpc", "tritonclient", "websockets", "uvloop", "onnxruntime", "structlog",
    "logging", "os", "io", "http", "urllib", "random", "secrets",
}  # fmt: skip


def source_of(module: str) -> Path | None:
    path = ROOT.joinpath(*module.split("."))
    found = [p for p in (path.with_suffix(".py"), path / "__init__.py") if p.is_file()]
    return found[0] if found else None


def imports_of(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            assert node.module is not None
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def reachable() -> dict[str, set[str]]:
    """Every module of ours that the core reaches, with what it imports."""
    waiting = [f"server.session.{path.stem}" for path in (ROOT / "server/session").glob("*.py")]
    found: dict[str, set[str]] = {}
    while waiting:
        module = waiting.pop()
        path = source_of(module)
        if module in found or path is None:
            continue
        found[module] = imports_of(path)
        packages = [module.rsplit(".", n)[0] for n in range(1, module.count(".") + 1)]
        waiting += packages + [name for name in found[module] if name.split(".")[0] in OURS]
    return found


def test_nothing_the_core_reaches_imports_io_or_clocks() -> None:
    graph = reachable()
    assert "server.session.session" in graph
    assert "server.audio.resample" in graph
    guilty = {
        module: names & FORBIDDEN
        for module, imports in graph.items()
        if (names := {name.split(".")[0] for name in imports}) & FORBIDDEN
    }
    assert not guilty


def test_the_core_knows_no_other_room_than_audio_and_the_store_interface() -> None:
    rooms = {module for module in reachable() if not module.startswith("server.session")}
    allowed = {
        "server", "server.audio", "server.audio.codec", "server.audio.resample", "server.audio.ring",
        "session_store", "session_store.base",
    }  # fmt: skip
    assert rooms <= allowed


def test_importing_the_core_loads_none_of_it() -> None:
    # numpy loads parts of the standard library; these are not among them.
    unwanted = {"asyncio", "grpc", "tritonclient", "websockets", "onnxruntime", "structlog", "pydantic"}
    program = f"import server.session.session, sys; print(*({unwanted!r} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, timeout=60, check=True, capture_output=True)
    assert run.stdout.split() == []
