"""The documentation of every setting: `python -m server.describe > docs/configuration.md`."""

from __future__ import annotations

import sys

from server.config import describe

GROUPS = {
    "STARLING_HOST": "Where it listens",
    "STARLING_CACHE_DIR": "Where things lie",
    "STARLING_DEFAULT_LANGUAGE": "Speech",
    "STARLING_TRITON_ADDRESSES": "Triton and the work sent to it",
    "STARLING_SESSION_STORE": "Stores",
    "STARLING_RESUME_WINDOW_S": "Sessions and limits",
    "STARLING_KEYS_FILE": "Access",
    "STARLING_LOG_FORMAT": "Watching it",
}
"""Title of the group that begins with a setting."""

INTRODUCTION = """\
# Configuration

<!-- Made by `python -m server.describe > docs/configuration.md`; a test compares the two. -->

The gateway reads its settings from the environment, at start. A value that is out of range or does not fit with
another ends the start with a line that says which and why. Lists and tables are JSON:
`STARLING_PUNCTUATION_LANGUAGES='["en"]'`. `starling serve --host --port --workers` override the three that are changed
most.

A setting with a password in it can come from a file instead: `STARLING_SECRETS_DIR` names a folder, and a file in it
that is named like a setting in lower case (`starling_session_store`) gives its value. The environment wins over the
file.
"""

OTHERS = """\
## Set-up and models

Read by `make setup`, `make serve` and the Triton image; the gateway does not know them.

| setting | default | meaning |
| --- | --- | --- |
| `STARLING_TRITON_PYTHON` | the one that runs | Interpreter (3.11 or 3.12) that Triton's environment is made from. |
| `STARLING_MODEL_DIRS` | `{}` | Folders with other weights, model name to path: [models.md](models.md). |
| `STARLING_MODEL_INSTANCES` | `{}` | Processes that serve a model, name to number; on a CPU one a core, to 8 and 2. |
| `STARLING_MODEL_THREADS` | its share of the cores | CPU threads of each instance. |

## Clients

Read by the `starling` command.

| setting | default | meaning |
| --- | --- | --- |
| `STARLING_URL` | `ws://127.0.0.1:8000/stream` | Server to connect to. |
| `STARLING_API_KEY` | | API key to present. |
"""

HEAD = "| setting | default | meaning |\n| --- | --- | --- |\n"
LONGEST_DEFAULT = 60


def page() -> str:
    """The whole of `docs/configuration.md`."""
    parts = [INTRODUCTION]
    for name, default, meaning in describe():
        if name in GROUPS:
            parts.append(f"\n## {GROUPS[name]}\n\n{HEAD}")
        parts.append(f"| `{name}` | {_shown(default)} | {meaning.replace('|', chr(92) + '|')} |\n")
    return "".join([*parts, "\n", OTHERS])


def _shown(default: str) -> str:
    if len(default) > LONGEST_DEFAULT:
        return "see [models.md](models.md)"
    return f"`{default}`" if default else ""


if __name__ == "__main__":
    sys.stdout.write(page())
