"""An NVIDIA driver library without a driver: real C behind the real pynvml, its GPUs in a file."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).with_name("nvml.c")
SONAME = "libnvidia-ml.so.1"
LOST = 15
NOT_LOADED = 9
MISMATCH = 18


def build(folder: Path) -> Path:
    """Compile the library into a folder, for LD_LIBRARY_PATH or a container; its path."""
    folder.mkdir(parents=True, exist_ok=True)
    library = folder / SONAME
    words = ["cc", "-shared", "-fPIC", "-O1", f"-Wl,-soname,{SONAME}", "-o", str(library), str(SOURCE)]
    subprocess.run(words, check=True, timeout=60)
    return library


def uuid(gpu: int, instance: int | None = None) -> str:
    """Who a fake GPU, or an instance of it, says that it is."""
    if instance is None:
        return f"GPU-fa4e0000-0000-4000-8000-{gpu:012x}"
    return f"MIG-fa4e0000-0000-4000-8000-{gpu:08x}{instance:04x}"


@dataclass(frozen=True)
class FakeDriver:
    """The library and the state file of one test. Eight GPUs until ``say`` is told otherwise."""

    library: Path
    state: Path

    @property
    def environ(self) -> dict[str, str]:
        return {"LD_LIBRARY_PATH": str(self.library.parent), "FAKE_NVML_STATE": str(self.state)}

    def say(self, *lines: str) -> None:
        """What is true from now on (nvml.c has the words); nothing of before holds."""
        fresh = self.state.with_suffix(".new")
        fresh.write_text("".join(f"{line}\n" for line in lines))
        fresh.replace(self.state)
