"""The text of targets as a list of words, and what ticking a place of the cluster does to it. Pure.

What somebody typed and we can't read stays in the text as it is: the field says what is wrong with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeGuard

from hakuriver import target
from hakuriver.errors import UsageError
from hakuriver.target import Target

Word = Target | str
Words = tuple[Word, ...]


def read(text: str) -> Words:
    """The words of the target field; those that are no targets stay strings."""
    return tuple(map(_word, text.split()))


def _word(text: str) -> Word:
    try:
        return target.parse(text)
    except UsageError:
        return text


def write(words: Words) -> str:
    return " ".join(map(str, words))


def toggle_node(words: Words, node: str) -> Words:
    """Take every target on the node away, or ask for the node when there is none."""
    kept = tuple(word for word in words if not _on(word, node))
    return kept if len(kept) < len(words) else (*words, Target(node))


def toggle_numa(words: Words, node: str, numa: int, local: Sequence[int]) -> Words:
    """Bind to a NUMA node, or no longer. ``local``: the GPUs there.

    A target on the node that fits into it becomes bound; one that is bound elsewhere stays, and a second one
    is made: a task can't be on two.
    """
    for at, word in enumerate(words):
        if _on(word, node) and word.numa == numa:
            return _put(words, at, replace(word, numa=None))
    for at, word in enumerate(words):
        if _on(word, node) and word.numa is None and set(word.gpus) <= set(local):
            return _put(words, at, replace(word, numa=numa), keep=True)
    return (*words, Target(node, numa))


def toggle_gpu(words: Words, node: str, gpu: int, numa: int | None) -> Words:
    """Give a GPU back, or add it to the newest target that it fits; ``numa``: where the GPU is."""
    for at, word in enumerate(words):
        if _on(word, node) and gpu in word.gpus:
            return _put(words, at, replace(word, gpus=tuple(each for each in word.gpus if each != gpu)))
    fitting = [at for at, word in enumerate(words) if _on(word, node) and word.numa in (None, numa)]
    if not fitting:
        return (*words, Target(node, None, (gpu,)))
    at = fitting[-1]
    word = words[at]
    assert isinstance(word, Target)
    return _put(words, at, replace(word, gpus=tuple(sorted((*word.gpus, gpu)))), keep=True)


def toggle_each(words: Words, node: str) -> Words:
    """One task for each GPU instead of one with all of them, and back."""
    mine = [word for word in words if _on(word, node)]
    if any(len(word.gpus) > 1 for word in mine):
        apart = [[replace(word, gpus=(gpu,)) for gpu in word.gpus] or [word] for word in mine]
        made = [each for group in apart for each in group]
    else:
        joined: dict[int | None, Target] = {}
        for word in mine:
            held = joined.get(word.numa, Target(node, word.numa))
            joined[word.numa] = replace(held, gpus=tuple(sorted({*held.gpus, *word.gpus})))
        made = list(joined.values())
    first = next((at for at, word in enumerate(words) if _on(word, node)), len(words))
    return (*words[:first], *made, *(word for word in words[first:] if not _on(word, node)))


def without_targets(words: Words) -> Words:
    """Anywhere: only what we can't read stays."""
    return tuple(word for word in words if isinstance(word, str))


def without_gpus(words: Words) -> Words:
    """Which GPUs is for the scheduler to say; twice the same place is once then."""
    bare = [replace(word, gpus=()) if isinstance(word, Target) else word for word in words]
    return tuple(dict.fromkeys(bare))


def _on(word: Word, node: str) -> TypeGuard[Target]:
    return isinstance(word, Target) and word.node == node


def _put(words: Words, at: int, word: Target, *, keep: bool = False) -> Words:
    """With another word there; a target that asks for nothing any more goes, unless ``keep``."""
    found: Words = (word,) if keep or word.numa is not None or word.gpus else ()
    return (*words[:at], *found, *words[at + 1 :])
