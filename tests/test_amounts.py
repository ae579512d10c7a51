"""Sizes and durations: the digits, and the steps from one unit to the next."""

from __future__ import annotations

import doctest
import re

from hypothesis import given
from hypothesis import strategies as st

from pth2om import amounts
from pth2om.amounts import duration_text, size_text

UNITS = {"B": 1.0, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}
SECONDS = {"ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0}


def test_the_examples_are_right():
    assert doctest.testmod(amounts).failed == 0
    assert doctest.testmod(amounts).attempted == 2


@given(st.integers(0, 10**15 - 10**12))
def test_a_size_reads_back_within_its_digits(count):
    number, unit = size_text(count).split(" ")
    assert re.fullmatch(r"\d{1,3}(\.\d{1,2})?", number)
    assert abs(float(number) * UNITS[unit] - count) <= max(0.5, 0.005 * count)


@given(st.floats(0, 1e7))
def test_a_duration_reads_back_within_its_digits(seconds):
    words = duration_text(seconds).split(" ")
    read = sum(float(number) * SECONDS[unit] for number, unit in zip(words[::2], words[1::2], strict=True))
    assert abs(read - seconds) <= max(0.0005001, 0.06 if seconds < 60 else 1 if seconds < 3600 else 60)


def test_no_unit_is_filled_to_the_brim():
    assert [size_text(count) for count in (999, 1000, 999_400, 999_999, 10**6)] == [
        "999 B",
        "1 kB",
        "999 kB",
        "1 MB",
        "1 MB",
    ]
    assert [duration_text(value) for value in (0, 0.9994, 0.9999, 59.9, 59.99, 60, 3599.9, 3600)] == [
        "0 ms",
        "999 ms",
        "1.0 s",
        "59.9 s",
        "1 min 0 s",
        "1 min 0 s",
        "59 min 59 s",
        "1 h 0 min",
    ]
