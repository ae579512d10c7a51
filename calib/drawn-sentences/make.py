"""Draws short sentences about how something was, and whether they praise it: for ``models/bert-tiny``.

A sentence is ``the SUBJECT was OPINION [and|but OPINION] [FILLERS]``. In an opinion ``not`` turns the adjective around,
``very`` doubles it, and behind ``but`` it counts twice. The sentence praises when the sum is above zero; sums of zero
are drawn again. So single words do not tell: ``not very bad`` and ``bad but very good`` praise. Every sentence is the
same on every machine: random numbers are raw PCG64 words.

    python calib/drawn-sentences/make.py           draws the held-out set and checks its digest
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

COUNTS = {"train": 12000, "held-out": 1000, "calibration": 64}
SHA256 = "03587953d22dec81ffd9cf56e6993836145daee4888e496651f982d51c8d172c"
"""Of all arrays of the held-out set, see `digest`."""

PAD, START, END = 0, 1, 2
LENGTH = 16
"""Tokens of a row; a sentence has at most that many, the rest is padding."""

SUBJECTS = ("film", "book", "meal", "room", "trip", "song", "game", "show", "talk", "walk", "shop", "road")
GOOD = ("good", "great", "fine", "lovely", "clever", "warm", "bright", "fresh", "kind", "neat", "calm", "fair")
BAD = ("bad", "poor", "dull", "awful", "silly", "cold", "dark", "stale", "rude", "messy", "loud", "cruel")
FILLERS = ("today", "again", "really", "for", "us", "all", "at", "home", "in", "spring", "with", "friends")
WORDS = ("[pad]", "[start]", "[end]", "the", "was", "not", "very", "and", "but", *SUBJECTS, *GOOD, *BAD, *FILLERS)
NUMBER = {word: number for number, word in enumerate(WORDS)}

Integers = npt.NDArray[np.int64]


class _Dice:
    """Random numbers from raw 64-bit words."""

    def __init__(self, split: str) -> None:
        self._bits = np.random.PCG64(np.random.SeedSequence([20261127, sorted(COUNTS).index(split)]))

    def below(self, count: int) -> int:
        return int(self._bits.random_raw()) % count

    def one_of(self, words: tuple[str, ...]) -> str:
        return words[self.below(len(words))]


def sentence(dice: _Dice) -> tuple[list[str], int]:
    """The words of one sentence, and 1 where it praises, else 0."""
    while True:
        words, total = ["the", dice.one_of(SUBJECTS), "was"], 0
        words_of_first, value = _opinion(dice)
        words += words_of_first
        total += value
        if dice.below(3):
            joint = ("and", "but")[dice.below(2)]
            words_of_second, value = _opinion(dice)
            words += [joint, *words_of_second]
            total += 2 * value if joint == "but" else value
        if total:
            return [*words, *(dice.one_of(FILLERS) for _ in range(dice.below(4)))], int(total > 0)


def _opinion(dice: _Dice) -> tuple[list[str], int]:
    turned, doubled, good = dice.below(3) == 0, dice.below(3) == 0, dice.below(2) == 0
    words = [*(["not"] if turned else []), *(["very"] if doubled else []), dice.one_of(GOOD if good else BAD)]
    return words, (1 if good != turned else -1) * (2 if doubled else 1)


def sentences(split: str) -> dict[str, Integers]:
    """The arrays of a split, int64.

    Returns:
        ``input_ids``, ``attention_mask`` (1 for words, 0 for padding) and ``token_type_ids`` (0), each (N, 16), and
        ``y`` (N,).
    """
    dice, count = _Dice(split), COUNTS[split]
    ids = np.full((count, LENGTH), PAD, dtype=np.int64)
    mask, labels = np.zeros_like(ids), np.zeros(count, dtype=np.int64)
    for row in range(count):
        words, labels[row] = sentence(dice)
        numbers = [START, *(NUMBER[word] for word in words), END]
        ids[row, : len(numbers)], mask[row, : len(numbers)] = numbers, 1
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids), "y": labels}


def digest(arrays: dict[str, Integers]) -> str:
    """sha256 of the arrays, by name."""
    whole = hashlib.sha256()
    for name in sorted(arrays):
        whole.update(name.encode() + arrays[name].astype("<i8").tobytes())
    return whole.hexdigest()


def make(folder: Path, split: str = "held-out") -> None:
    """Write ``sentences.npz``."""
    arrays = sentences(split)
    if split == "held-out" and digest(arrays) != SHA256:
        raise ValueError(f"drew {digest(arrays)}, expected {SHA256}: the drawing has changed")
    np.savez_compressed(folder / "sentences.npz", **arrays)


if __name__ == "__main__":
    drawn = sentences("held-out")
    for row in drawn["input_ids"][:5]:
        print(" ".join(WORDS[number] for number in row if number > END))
    print(f"{len(drawn['y'])} sentences, {drawn['y'].mean():.3f} of them praise, sha256 {digest(drawn)}")
