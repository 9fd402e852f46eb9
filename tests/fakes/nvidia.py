"""NVIDIA's container support without NVIDIA: the hook that an engine looks for on its PATH when it starts.

The engine then takes requests for GPUs and calls the hook for each such container, before its first process.
This one puts the fake driver library into the container, which there shows just the GPUs that were asked for.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tests.images import NVIDIA_LIBRARIES

_HOOK = "nvidia-container-runtime-hook"
_SCRIPT = f"""#!{sys.executable} -IS
import json, pathlib, shutil, sys
here = pathlib.Path(__file__).parent
if (here / "broken").exists():
    sys.exit("nvidia-container-cli: " + (here / "broken").read_text())
bundle = pathlib.Path(json.load(sys.stdin)["bundle"])
root = bundle / json.loads((bundle / "config.json").read_text())["root"]["path"]
libraries = root / "{NVIDIA_LIBRARIES.lstrip("/")}"
libraries.mkdir(parents=True, exist_ok=True)
shutil.copy(here / "library", libraries / LIBRARY)
"""


def install(folder: Path, library: Path) -> dict[str, str]:
    """Put the hook into a folder, for this driver library; what an engine must have in its environment, and a
    runner to see it. With a file ``broken`` beside it the hook fails, with the words in that."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "library").symlink_to(library)
    hook = folder / _HOOK
    hook.write_text(_SCRIPT.replace("LIBRARY", repr(library.name)))
    hook.chmod(0o755)
    return {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
