"""Meters of nodes and GPUs as pieces of a line: what is really used, what is allocated, who has it. Pure."""

from __future__ import annotations

from hakuriver.lifecycle import NodeState
from hakuriver.units import format_size
from hakuriver.views import GpuView, NodeView, NumaView
from tui import gpus
from tui.facts import held_cores
from tui.plain import clean, fit
from tui.widgets.tones import Piece, bar, length, spread

_NUMBERS, _SHORT = 14, 5
_LEAST = 6
"""Cells of a meter that is worth having numbers in full beside it."""
_SPARE = 8
"""Cells of a GPU's line for whose it is, at least."""


def cpu(node: NodeView, width: int) -> list[Piece]:
    usage = node["usage"] if node["state"] == NodeState.ONLINE else None
    held = 1 - node["cores_free"] / node["cores"] if node["cores"] else 0.0
    short = gpus.percent(usage["cpu_percent"] if usage else None)
    used = usage["cpu_percent"] / 100 if usage else None
    numbers = (short, f"{short:>4} {held_cores(node):>7}")
    return _meter("cpu", width, used, held=held, numbers=numbers, tone_name="accent")


def memory(node: NodeView, width: int) -> list[Piece]:
    usage = node["usage"] if node["state"] == NodeState.ONLINE else None
    total = node["memory"] or 1
    used = usage["memory_used"] / total if usage else None
    shown = format_size(usage["memory_used"]) if usage else "–"
    numbers = (shown, f"{shown:>4} of {format_size(node['memory']):>4}")
    colour = gpus.fullness(used, "info")
    held = 1 - node["memory_free"] / total
    return _meter("mem", width, used, held=held, numbers=numbers, tone_name=colour)


def _meter(
    label: str, width: int, used: float | None, *, held: float, numbers: tuple[str, str], tone_name: str
) -> list[Piece]:
    """``numbers`` in short and in full: a meter of a few cells says more than numbers that are cut."""
    short = width < 4 + _NUMBERS + _LEAST
    meter = max(3, width - 4 - (_SHORT if short else _NUMBERS))
    return [
        (f"{label} ", "muted"),
        *bar(meter, used, held, tone_name),
        (fit(numbers[not short], width - 4 - meter, right=True), ""),
    ]


def gpu_strip(node: NodeView, width: int) -> list[Piece]:
    """All GPUs in one line: with their numbers where there is room, NUMA nodes apart, else a cell each."""
    found = gpus.devices(node)
    if not found:
        return [(fit(f"gpu {clean(node['unavailable'].get('gpu', '–'))}", width), "muted")]
    held = f" {gpus.count_held(node)}/{len(found)}"
    room = width - 4 - len(held)
    for made in (_numbered(found), _cells(found)):
        if length(made) <= room:
            return spread([("gpu ", "muted"), *made], [(held, "")], width)
    cut = _cells(found)[: max(1, room - 1)]
    return spread([("gpu ", "muted"), *cut, ("…", "muted")], [(held, "")], width)


def gpu_cells(node: NodeView, width: int) -> list[Piece]:
    """The same in exactly ``width`` cells, without words."""
    found = gpus.devices(node)
    cells = _cells(found)
    if len(cells) > width:
        cells = [*cells[: width - 1], ("…", "muted")]
    return [*cells, (" " * (width - len(cells)), "")]


def _cells(found: list[GpuView]) -> list[Piece]:
    return [(gpus.glyph(gpu), gpus.tone_of(gpu)) for gpu in found]


def _numbered(found: list[GpuView]) -> list[Piece]:
    pieces: list[Piece] = []
    before = found[0]["numa"]
    for gpu in found:
        if gpu["numa"] != before:
            pieces.append(("│", "faint"))
            before = gpu["numa"]
        pieces += [(f"{gpu['index']}", "muted"), (f"{gpus.glyph(gpu)} ", gpus.tone_of(gpu))]
    return pieces


def gpu_line(gpu: GpuView, whose: gpus.Whose, width: int) -> list[Piece]:
    """Everything about one GPU; what there is no room for is left out."""
    colour = gpus.tone_of(gpu)
    model = min(22, width // 5) if width >= 70 else 0
    pieces: list[Piece] = [(fit(str(gpu["index"]), 3, right=True), "title"), (" ", "")]
    if model:
        pieces.append((fit(gpus.short_model(gpu["model"]), model) + " ", ""))
    words = gpus.who(gpu, whose)
    if gpu["lost"] or gpu["mig"]:
        left = width - length(pieces)
        return [*pieces, (fit(f"{gpus.glyph(gpu)} {words}", left), colour)]
    power = gpus.watts(gpu["power"]) if width >= 100 else ""
    rest = width - 4 - (model + 1 if model else 0) - 5 - 1 - 9 - 6 - (6 if power else 0) - 1
    spare = max(_SPARE, min(40, rest * 2 // 5))
    meter = max(3, (rest - spare) // 2)
    used, full = gpus.load(gpu), gpus.share(gpu)
    pieces += [
        *bar(meter, used, 0.0, colour if colour != "muted" else "accent"),
        (fit(gpus.percent(gpu["utilization"]), 5, right=True) + " ", ""),
        *bar(meter, full, 0.0, gpus.fullness(full, "info")),
        (fit(gpus.memory_of(gpu), 9, right=True), ""),
        (fit(gpus.degrees(gpu["temperature"]), 6, right=True), _heat(gpu["temperature"])),
    ]
    if power:
        pieces.append((fit(power, 6, right=True), "muted"))
    left = width - length(pieces)
    return [*pieces, (fit(f" {words or 'free'}", left), colour)]


def _heat(temperature: float | None) -> str:
    return "bad" if (temperature or 0) >= 88 else "warn" if (temperature or 0) >= 80 else "muted"


def numa_line(numa: NumaView, width: int) -> list[Piece]:
    """A NUMA node above its GPUs."""
    count = len(numa["cpus"])
    memory_text = f"{format_size(numa['memory'])}" if numa["memory"] else "no memory"
    cpus = f"cpus {_ranges(numa['cpus'])}" if count else "no cpus"
    text = f" numa {numa['id']}  {cpus}  {memory_text}"
    return [(fit(text, width), "muted")]


def _ranges(numbers: list[int]) -> str:
    """``0-3,8``."""
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)
