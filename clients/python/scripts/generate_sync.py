"""Makes src/mediant/_sync.py from _async.py by exchanging words. With --check, says whether it is up to date."""

from __future__ import annotations

import pathlib
import re
import sys

SOURCE = pathlib.Path(__file__).resolve().parent.parent / "src" / "mediant"
WORDS = [
    ("The client that awaits. scripts/generate_sync.py makes `_sync.py`, the client that blocks, from this file.", "The client that blocks. Made from _async.py by scripts/generate_sync.py."),
    (r"\basync (def|with|for) ", r"\1 "),
    (r"\bawait ", ""),
    ("import asyncio\nimport os\nimport ssl\nimport sys\nimport warnings", "import os\nimport ssl\nimport sys\nimport time\nimport warnings"),
    (r"asyncio\.sleep", "time.sleep"),
    (r"httpx\.AsyncClient", "httpx.Client"),
    ("AsyncBaseTransport", "BaseTransport"),
    (r"\bAsync(Client|Job)\b", r"\1"),
    (r"__a(enter|exit)__", r"__\1__"),
    (r"\.?\ba(close|read|iter_lines)\b", lambda match: match[0].replace("a", "", 1)),
    # A property that blocks may fetch what it needs when it is asked.
    (r"(?s)    def _files\(.*?        return files\n", "    def _files(self, path: str, parameters: Mapping[str, Any]) -> dict[str, bytes]:\n        return {}\n"),
    (r"(?s)    def _fetch\(.*?        return None\n", "    def _fetch(self) -> results.Fetch | None:\n        return lambda path, parameters: self._call(self._core.bytes(path, parameters))\n"),
]


def generated() -> str:
    text = (SOURCE / "_async.py").read_text()
    for pattern, word in WORDS:
        text, count = re.subn(pattern, word, text)
        if not count:
            raise SystemExit(f"{pattern!r} is nowhere in _async.py any more")
    return text


if __name__ == "__main__":
    made = SOURCE / "_sync.py"
    if "--check" in sys.argv:
        sys.exit(0 if made.read_text() == generated() else "_sync.py is older than _async.py: run scripts/generate_sync.py")
    made.write_text(generated())
