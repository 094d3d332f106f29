"""Held out by word: captions whose words were all trained on, but never together.

Whether a model draws such a caption tells composition from memory. Everything here is a function of captions alone, so that
what an evaluation asks can be found again in any built data set. A word is what lies between spaces and punctuation, in
lower case; a caption is a *new combination* to others if each of its words is in some of them, and all of them in none.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

_WORD = re.compile(r"\w+(?:['’-]\w+)*")


def words(caption: str) -> frozenset[str]:
    """The words of `caption`: "Woman's red-hot hat!" has woman's, red-hot and hat."""
    return frozenset(_WORD.findall(caption.lower()))


def hold_out(captions: Sequence[str], one_in: int) -> frozenset[int]:
    """Which of `captions` (indices) to train without, so that each is a new combination to all that are trained on.

    At most one in `one_in` captions with a word is taken, so that no word becomes rare; which ones, a hash decides.

    Args:
        captions: one a picture.
        one_in: at least 2.
    """
    assert one_in >= 2
    vocabulary = [words(caption) for caption in captions]
    total = Counter(word for found in vocabulary for word in found)
    possible = set(range(len(captions))) - _contained(vocabulary)
    taken, chosen = Counter[str](), list[int]()
    for index in sorted(possible, key=lambda index: (_hash(captions[index]), index)):
        if all((taken[word] + 1) * one_in <= total[word] for word in vocabulary[index]):
            taken.update(vocabulary[index])
            chosen.append(index)
    return frozenset(chosen)


def new_combinations(held_out: Iterable[str], trained: Iterable[str]) -> tuple[str, ...]:
    """Those captions of `held_out` that are new combinations to `trained`, each once, in order."""
    vocabulary = [words(caption) for caption in trained]
    containing = _containing(vocabulary)
    found = {
        caption: None
        for caption in held_out
        if (own := words(caption))
        and all(word in containing for word in own)
        and not set.intersection(*(containing[word] for word in own))
    }
    return tuple(found)


def _containing(vocabulary: Sequence[frozenset[str]]) -> dict[str, set[int]]:
    """For each word the indices of the captions that have it."""
    containing = defaultdict[str, set[int]](set)
    for index, found in enumerate(vocabulary):
        for word in found:
            containing[word].add(index)
    return dict(containing)


def _contained(vocabulary: Sequence[frozenset[str]]) -> set[int]:
    """The indices of captions without words, and of those all of whose words are in another one."""
    containing = _containing(vocabulary)
    return {
        index
        for index, own in enumerate(vocabulary)
        if not own or set.intersection(*(containing[word] for word in own)) != {index}
    }


def _hash(caption: str) -> bytes:
    return hashlib.blake2b(b"dah-combinations-1\n" + caption.encode(), digest_size=16).digest()
