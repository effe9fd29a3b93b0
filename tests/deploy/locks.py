"""What the lock files install on Linux."""

from __future__ import annotations

import re

from packaging.markers import Marker

from launcher.paths import SOURCE_ROOT

RUNTIME = ("gateway", "triton", "triton-image-cpu", "triton-image-cuda")


def locked(name: str) -> set[str]:
    """The packages that `requirements/NAME.txt` installs on x86-64 Linux with the Pythons that are supported."""
    text = (SOURCE_ROOT / "requirements" / f"{name}.txt").read_text()
    found = re.findall(r"^([A-Za-z0-9_.-]+)==[^ ;\\]+(?: ; ([^\\\n]+))?", text, re.MULTILINE)
    return {package for package, marker in found if not marker or _applies(marker)}


def _applies(marker: str) -> bool:
    base = {"sys_platform": "linux", "platform_machine": "x86_64", "platform_system": "Linux", "os_name": "posix"}
    versions = ("3.11.0", "3.11.2", "3.11.7", "3.12.1")
    return any(
        Marker(marker).evaluate({**base, "python_full_version": version, "python_version": version[:4]})
        for version in versions
    )
