"""What a node offers of itself by its settings: labels, and what it keeps back from tasks."""

from __future__ import annotations

from dataclasses import dataclass, field

from pydantic import TypeAdapter, ValidationError

from hakuriver.config import Node
from hakuriver.errors import ConfigError
from hakuriver.fields import Labels
from hakuriver.units import format_cores, format_size


@dataclass(frozen=True, slots=True)
class Offer:
    """``reserve_cores`` and ``reserve_memory`` (bytes) are the node's own."""

    labels: dict[str, str] = field(default_factory=dict)
    reserve_cores: float = 0.0
    reserve_memory: int = 0

    def cores(self, there_are: float) -> float:
        """What tasks may have of so many cores."""
        return max(0.01, there_are - self.reserve_cores)

    def memory(self, there_is: int) -> int:
        """What tasks may have of so many bytes."""
        return max(0, there_is - self.reserve_memory)


def offer_of(node: Node, *, cores: float, memory: int) -> Offer:
    """The offer of a machine with so much; raises ConfigError for labels that are none, and when nothing
    would be left."""
    if node.reserve_cores >= cores:
        raise ConfigError(
            f"[node] reserve_cores = {format_cores(node.reserve_cores)} leaves nothing for tasks:"
            f" this machine has {format_cores(cores)} cores"
        )
    if node.reserve_memory >= memory:
        raise ConfigError(
            f"[node] reserve_memory = {format_size(node.reserve_memory)} leaves nothing for tasks:"
            f" this machine has {format_size(memory)}"
        )
    return Offer(_labels(node.labels), node.reserve_cores, node.reserve_memory)


def _labels(written: tuple[str, ...]) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in written:
        key, equals, value = text.partition("=")
        try:
            label = TypeAdapter(Labels).validate_python({key: value})
        except ValidationError:
            label = {}
        if not equals or not label:
            raise ConfigError(
                f"[node] labels: {text!r} is not KEY=VALUE",
                hint="letters, digits, '.', '_', '/', '-' (values ':', too), at most 63 each",
            )
        if key in found:
            raise ConfigError(f"[node] labels: {key} is there twice")
        found[key] = value
    return found
