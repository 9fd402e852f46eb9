"""``hakurun`` as one file that needs nothing but a shell and Python: for containers, and for PATH here."""

from __future__ import annotations

import ast
import io
import zipfile
from pathlib import Path

import hakuriver

MODULE = "hakuriver.cli.hakurun"
OLDEST = (3, 8)
_HEAD = f"""#!/bin/sh
command -v python3 >/dev/null 2>&1 && exec python3 "$0" "$@"
echo "hakurun: there is no python3 on PATH here; it needs Python {OLDEST[0]}.{OLDEST[1]} or later" >&2
exit 127
"""
# in words of any Python 3: an old one must get as far as the message
_MAIN = f"""import sys
if sys.version_info < {OLDEST!r}:
    found = "%d.%d" % sys.version_info[:2]
    sys.exit("hakurun: this is Python " + found + "; it needs {OLDEST[0]}.{OLDEST[1]} or later")
from {MODULE} import run
sys.exit(run())
"""


def install(folder: Path) -> Path:
    """Write the file into a folder, where everybody may run it; raises OSError. Containers that have an older
    one keep theirs."""
    folder.mkdir(mode=0o755, exist_ok=True)
    path, fresh = folder / "hakurun", folder / "hakurun.new"
    content = build()
    if not path.exists() or path.read_bytes() != content:
        fresh.write_bytes(content)
        fresh.chmod(0o755)
        fresh.replace(path)
    return path


def build() -> bytes:
    """A shell script that is a Python archive, too: the shell stops reading before it gets there."""
    root = Path(hakuriver.__file__).parents[1]
    buffer = io.BytesIO()
    buffer.write(_HEAD.encode())
    with zipfile.ZipFile(buffer, "a") as archive:
        _add(archive, "__main__.py", _MAIN)
        for name in sorted(_closure(root, MODULE)):
            _add(archive, str(_file(root, name).relative_to(root)), _file(root, name).read_text("utf-8"))
    return buffer.getvalue()


def _add(archive: zipfile.ZipFile, name: str, text: str) -> None:
    archive.writestr(zipfile.ZipInfo(name), text, zipfile.ZIP_DEFLATED)


def _closure(root: Path, module: str) -> set[str]:
    """Our modules that a module imports, directly or not, with their packages."""
    found: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in found or name.partition(".")[0] != "hakuriver" or not _file(root, name).exists():
            continue
        found.add(name)
        waiting.append(name.rpartition(".")[0])
        for node in ast.walk(ast.parse(_file(root, name).read_text("utf-8"))):
            if isinstance(node, ast.Import):
                waiting += [each.name for each in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module is not None:
                waiting += [node.module, *(f"{node.module}.{each.name}" for each in node.names)]
    return found


def _file(root: Path, module: str) -> Path:
    path = root.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
