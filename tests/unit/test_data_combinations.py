"""What is held out by word was trained on, word by word, and never together."""

from __future__ import annotations

from collections import Counter

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from diffusion_at_home.data.combinations import hold_out, new_combinations, words

COLOURS = ("red", "green", "blue", "black")
SHAPES = ("heart", "circle", "square", "book")
GRID = [f"{colour} {shape}" for colour in COLOURS for shape in SHAPES]

captions = st.lists(st.text("abcde ", max_size=7), max_size=30)
calmly = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine is no mistake


def test_words_are_lower_case_and_keep_their_apostrophes() -> None:
    assert words('Woman\'s red-hot hat: "one o’clock"!') == {"woman's", "red-hot", "hat", "one", "o’clock"}
    assert words(" ,.- ") == frozenset()


def test_a_full_grid_of_words_gives_new_combinations() -> None:
    held_out = hold_out(GRID, one_in=4)
    assert 2 <= len(held_out) <= 4
    trained = [caption for index, caption in enumerate(GRID) if index not in held_out]
    assert set(new_combinations([GRID[index] for index in held_out], trained)) == {GRID[index] for index in held_out}


def test_a_name_within_a_name_is_never_held_out() -> None:
    longer = [f"{caption} with arrow" for caption in GRID]
    assert all(index >= len(GRID) for index in hold_out([*GRID, *longer], one_in=2))


@calmly
@given(captions, st.integers(2, 6))
def test_held_out_captions_are_new_combinations_of_words_that_stay_common(names: list[str], one_in: int) -> None:
    held_out = hold_out(names, one_in)
    trained = [name for index, name in enumerate(names) if index not in held_out]
    chosen = [names[index] for index in sorted(held_out)]
    assert list(new_combinations(chosen, trained)) == chosen
    total = Counter(word for name in names for word in words(name))
    taken = Counter(word for name in chosen for word in words(name))
    assert all(taken[word] * one_in <= total[word] for word in taken)


@calmly
@given(captions, captions)
def test_new_combinations_are_what_a_plain_search_finds(held_out: list[str], trained: list[str]) -> None:
    known = {word for name in trained for word in words(name)}
    naive = [
        name
        for name in dict.fromkeys(held_out)
        if words(name) and words(name) <= known and not any(words(name) <= words(other) for other in trained)
    ]
    assert list(new_combinations(held_out, trained)) == naive
