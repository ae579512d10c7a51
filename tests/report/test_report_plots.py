from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from pth2om.report import plots

FLOATS = st.floats(allow_nan=True, allow_infinity=True)


def numbers_in(svg):
    return [float(word) for word in re.findall(r"-?\d+\.?\d*(?:e[-+]\d+)?", svg)]


def bars(svg):
    return re.findall(r"M([-\d.]+) [\d.]+v-([\d.]+)h([\d.]+)", svg)


def test_a_histogram_has_a_bar_per_filled_bin_and_taller_ones_for_more():
    drawn = bars(plots.histogram([0, 1, 2, 3], [10, 0, 1000]))
    assert len(drawn) == 2
    assert float(drawn[1][1]) > float(drawn[0][1])


def test_a_single_bad_element_is_seen_beside_a_million_good_ones():
    drawn = bars(plots.histogram([0, 1, 2], [1e6, 1]))
    assert float(drawn[1][1]) >= 1.5


def test_bars_of_wide_ranges_lie_on_a_logarithmic_axis():
    drawn = bars(plots.histogram([1e-6, 1e-5, 1e-4, 1e-3], [1, 1, 1], width=300))
    assert [float(bar[0]) for bar in drawn] == [0, 100, 200]


def test_many_bins_are_merged_without_losing_the_last():
    svg = plots.histogram(list(range(502)), [1.0] * 501)
    assert 0 < len(bars(svg)) <= 60
    assert ">501<" in svg


@given(st.lists(FLOATS, max_size=8), st.lists(FLOATS, max_size=8))
def test_a_histogram_of_anything_draws_or_draws_nothing(edges, counts):
    svg = plots.histogram(edges, counts)
    assert "nan" not in svg.lower()


@given(st.lists(st.tuples(FLOATS, FLOATS, FLOATS, st.none() | st.floats(-1e6, 1e6)), max_size=4))
def test_intervals_of_anything_draw_or_draw_nothing(rows):
    svg = plots.intervals([plots.Whisker("x", *row, "p") for row in rows])
    assert "nan" not in svg.lower()


@given(st.lists(st.tuples(*[st.none() | FLOATS] * 4), max_size=4))
def test_latencies_of_anything_draw_or_draw_nothing(rows):
    svg = plots.latencies([plots.Span("x", *row) for row in rows])
    assert "nan" not in svg.lower()


def place_of(svg, kind):
    return float(re.search(rf'<circle class="?{kind}"? cx=([\d.]+)', svg)[1])


def test_a_drop_beyond_the_gate_lies_in_the_shaded_part():
    svg = plots.intervals([plots.Whisker("a", 1.5, 1.1, 1.9, 1.0, "f"), plots.Whisker("b", 0.2, 0.0, 0.4, 1.0, "p")])
    edge = float(re.search(r"<path class=l d=\"M([\d.]+)", svg)[1])
    assert place_of(svg, "p") < edge < place_of(svg, "f")


def test_an_estimate_is_drawn_as_one_and_not_as_a_measurement():
    svg = plots.latencies([plots.Span("OM", None, None, None, 0.8)])
    assert "<path class=e" in svg
    assert "<circle" not in svg
    assert "≥ 0.8 ms" in svg


def test_labels_cannot_leave_their_text():
    svg = plots.intervals([plots.Whisker('<script>"&', 1, 1, 1, None, "p")])
    assert "<script" not in svg
    assert "&lt;script" in svg


def test_ticks_are_round_and_hold_zero():
    ticks = plots._nice(-0.3, 1.2)
    assert 0 in ticks
    assert 3 <= len(ticks) <= 8
    assert all(round(tick * 10, 9) == round(tick * 10) for tick in ticks)
