"""Which images this runner brought into its engine: only those are its own to remove."""

from __future__ import annotations

import json
import os
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import ValidationError

from daemons.common.log import Log
from hakuriver.fields import Strict
from hakuriver.nodewire import EnvironmentRef

log = Log("images")


@dataclass(frozen=True, slots=True)
class Loaded:
    """A version that was loaded, or was being loaded when the runner was killed; ``image``: its id here."""

    name: str
    version: int
    sha256: str
    image: str

    def is_of(self, ref: EnvironmentRef) -> bool:
        return (self.name, self.version, self.sha256) == (ref.name, ref.version, ref.sha256)


class _Stored(Strict):
    loaded: list[Loaded]
    current: dict[str, str]


def superfluous(loaded: Collection[Loaded], keep: int, used: Collection[str]) -> list[Loaded]:
    """Those that may go, of versions in the order of their last use: all but the ``keep`` last of each
    environment, and those whose sha256 is ``used`` now. Pure."""
    count: dict[str, int] = {}
    found = []
    for each in reversed(list(loaded)):
        count[each.name] = count.get(each.name, 0) + 1
        if count[each.name] > keep and each.sha256 not in used:
            found.append(each)
    return found


class Record:
    """The list, in the order of their last use, in a file. Methods block, and raise OSError."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._loaded: tuple[Loaded, ...] = ()
        self._current: dict[str, str] = {}

    @property
    def loaded(self) -> tuple[Loaded, ...]:
        return self._loaded

    def read(self) -> None:
        """What an earlier runner wrote; a file that makes no sense is forgotten, as its images are then."""
        try:
            stored = _Stored.model_validate_json(self._path.read_bytes())
        except FileNotFoundError:
            return
        except ValidationError as error:
            log.warning("image_record_unreadable", path=str(self._path), error=str(error))
            return
        self._loaded, self._current = tuple(stored.loaded), dict(stored.current)

    def find(self, ref: EnvironmentRef) -> Loaded | None:
        """Whether, and as what, a version was loaded."""
        return next((each for each in self._loaded if each.is_of(ref)), None)

    def current(self, name: str) -> str | None:
        """The image that was last given the name without a version."""
        return self._current.get(name)

    def use(self, ref: EnvironmentRef, image: str) -> None:
        """A version is loaded (again), or used."""
        used = Loaded(ref.name, ref.version, ref.sha256, image)
        others = tuple(each for each in self._loaded if not each.is_of(ref))
        after = [each for each in self._loaded[self._place(ref) + 1 :] if each.name == ref.name]
        if self.find(ref) != used or after:
            self._write((*others, used), self._current)

    def _place(self, ref: EnvironmentRef) -> int:
        return next((place for place, each in enumerate(self._loaded) if each.is_of(ref)), -1)

    def make_current(self, name: str, image: str) -> None:
        """The name without a version is this image's now."""
        self._write(self._loaded, self._current | {name: image})

    def drop(self, gone: Collection[Loaded]) -> None:
        """They are not ours any more."""
        images = {each.image for each in gone}
        current = {name: image for name, image in self._current.items() if image not in images}
        self._write(tuple(each for each in self._loaded if each not in gone), current)

    def _write(self, loaded: tuple[Loaded, ...], current: dict[str, str]) -> None:
        text = json.dumps({"loaded": [asdict(each) for each in loaded], "current": current})
        beside = self._path.with_suffix(".new")
        with beside.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(self._path)
        self._loaded, self._current = loaded, current
