"""Lines of code of folders of src at a revision: no blank lines, comments or tests. benches/lines.py REVISION FOLDER..."""

import re
import subprocess
import sys


def git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], capture_output=True, check=True, text=True).stdout


def code(text: str) -> int:
    # Unit tests are the end of their file.
    text = re.split(r"^#\[cfg\(test\)\]\n(?:#!?\[[^\n]*\]\n)*mod \w+ \{", text, maxsplit=1, flags=re.M)[0]
    lines = (line.strip() for line in text.splitlines())
    return sum(bool(line) and not line.startswith("//") for line in lines)


revision, *folders = sys.argv[1:]
total = 0
for folder in folders:
    names = git("ls-tree", "-r", "--name-only", revision, f"src/{folder}/", f"src/{folder}.rs").split()
    own = [name for name in names if name.endswith(".rs") and not re.search(r"test|example\.rs|gallery\.rs", name.removeprefix("src/"))]
    lines = sum(code(git("show", f"{revision}:{name}")) for name in own)
    total += lines
    print(f"{lines:7,}  {folder}")
print(f"{total:7,}  in all at {revision}")
