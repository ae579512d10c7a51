"""Closeness: the metrics' invariants, the judging, and mutants that a default gate must catch."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Mapping

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pth2om.compare import judge, limits, measure, worse
from pth2om.compare.closeness import index_of
from pth2om.compare.figures import EDGES, METRICS, closeness, distance, figures
from pth2om.data.samples import Sample
from pth2om.errors import DataError
from pth2om.session import Provenance, Remembering, TensorSpec
from pth2om.spec import Closeness, Gates, Slice

VECTORS = hnp.arrays(np.float32, st.integers(1, 40), elements=st.floats(-1e3, 1e3, width=32))


class Computed:
    """A session made of a function."""

    def __init__(self, function: Callable[[np.ndarray], Mapping[str, np.ndarray]]) -> None:
        self.function = function
        self.inputs = (TensorSpec("x", (None, 3), np.dtype("float32")),)
        self.outputs = (TensorSpec("out", (None,), np.dtype("float32")),)
        self.digest = "0" * 64
        self.provenance = Provenance("test", "0", "host")

    def run(self, feeds):
        return dict(self.function(feeds["x"]))

    def close(self) -> None: ...
    def __enter__(self):
        return self

    def __exit__(self, *_) -> None: ...


class Rows(list):
    pixels = 640


def rows(count: int = 4, batch: int = 2, seed: int = 0) -> Rows:
    stream = np.random.default_rng(seed)
    return Rows(
        Sample(tuple(f"row-{first + k}" for k in range(batch)), {"x": stream.random((batch, 3), dtype=np.float32)})
        for first in range(0, count, batch)
    )


def pair(reference, candidate, slices=(), samples=None):
    return measure(Computed(reference), Computed(candidate), samples or rows(), slices)


class TestMetrics:
    @given(VECTORS)
    def test_equal_arrays_are_perfect(self, x: np.ndarray) -> None:
        values, histogram = closeness(x, x)
        assert values["cosine"] == pytest.approx(1.0, abs=1e-12)
        assert (values["relative_l2"], values["max_abs"], values["mean_abs"]) == (0, 0, 0)
        assert values["sqnr_db"] == math.inf
        assert values["within_tolerance"] == values["equal"] == 1
        assert histogram[0] == x.size
        assert sum(histogram[1:]) == 0

    @given(VECTORS, st.floats(0.5, 2))
    def test_cosine_is_blind_to_scale_and_relative_l2_is_not(self, x: np.ndarray, scale: float) -> None:
        if not np.any(x):
            return
        values, _ = closeness(x.astype(np.float64), x.astype(np.float64) * scale)
        assert values["cosine"] == pytest.approx(1.0, abs=1e-9)
        assert values["relative_l2"] == pytest.approx(abs(scale - 1), rel=1e-6, abs=1e-12)

    @given(VECTORS, st.randoms(use_true_random=False))
    def test_against_plain_formulas(self, x: np.ndarray, random) -> None:
        y = (x + np.float32(random.uniform(-1, 1))).astype(np.float32)
        values, histogram = closeness(x, y)
        r, c = x.astype(np.longdouble), y.astype(np.longdouble)
        assert values["max_abs"] == pytest.approx(float(np.abs(c - r).max()), rel=1e-9)
        assert values["mean_abs"] == pytest.approx(float(np.abs(c - r).mean()), rel=1e-9)
        if np.any(x):
            assert values["relative_l2"] == pytest.approx(float(np.sqrt(((c - r) ** 2).sum() / (r**2).sum())), rel=1e-9)
        if np.any(x) and np.any(y):
            cosine = float((r * c).sum() / np.sqrt((r * r).sum() * (c * c).sum()))
            assert values["cosine"] == pytest.approx(cosine, abs=1e-9)
        assert values["within_tolerance"] == pytest.approx(float((np.abs(c - r) <= 5e-3 + 5e-3 * np.abs(r)).mean()))
        assert sum(histogram) == x.size
        assert len(histogram) == len(EDGES) + 1

    @given(st.lists(st.sampled_from([0.0, *(10.0**edge for edge in EDGES), 1e300]) | st.floats(1e-12, 1e6)))
    def test_errors_are_counted_as_looking_up_each_of_them_would(self, errors: list[float]) -> None:
        bins = np.digitize(errors, 10.0 ** np.array(EDGES))
        counts = np.bincount(bins, minlength=len(EDGES) + 1) if errors else np.zeros(len(EDGES) + 1)
        assert closeness(np.zeros(len(errors)), np.array(errors))[1] == counts.tolist()

    @given(VECTORS)
    def test_zero_vectors_are_defined(self, x: np.ndarray) -> None:
        zeros = np.zeros_like(x)
        assert closeness(zeros, zeros)[0]["cosine"] == 1
        assert closeness(zeros, zeros)[0]["relative_l2"] == 0
        if np.any(x):
            assert closeness(x, zeros)[0]["cosine"] == 0
            assert closeness(x, zeros)[0]["relative_l2"] == pytest.approx(1)
            assert closeness(zeros, x)[0]["cosine"] == 0
            assert closeness(zeros, x)[0]["relative_l2"] == math.inf

    @given(VECTORS, st.sampled_from([np.nan, np.inf, -np.inf]), st.data())
    def test_new_nonfinite_values_are_counted_and_spoil_nothing_else(self, x, bad, data) -> None:
        place = data.draw(st.integers(0, x.size - 1))
        y = x.copy()
        y[place] = bad
        values, _ = closeness(x, y)
        assert values["new_nonfinite"] == 1
        assert values["lost_nonfinite"] == 0
        assert all(value is None or not math.isnan(value) for value in values.values())
        assert closeness(y, y)[0]["new_nonfinite"] == closeness(y, y)[0]["lost_nonfinite"] == 0
        assert closeness(y, x)[0]["lost_nonfinite"] == 1

    def test_very_small_and_very_large_values(self) -> None:
        small = np.array([1e-30, 2e-30], np.float32)
        assert closeness(small, small * 2)[0]["cosine"] == pytest.approx(1)
        large = np.array([3e38, 1e38], np.float32)
        assert closeness(large, large)[0]["cosine"] == pytest.approx(1)
        assert closeness(np.float16([65504]), np.float16([np.inf]))[0]["new_nonfinite"] == 1

    def test_the_same_bits_whatever_threads_the_blas_has(self) -> None:
        """Else a night on a machine with other cores reads as changed."""
        code = (
            "import numpy as np\nfrom pth2om.compare.figures import figures\n"
            "stream = np.random.default_rng(0)\n"
            "for size in (9_000, 30_001, 700_000):\n"
            "    x = stream.normal(size=size)\n    print(figures(x, x + stream.normal(size=size) * 1e-3))\n"
        )
        found = [
            subprocess.run(
                [sys.executable, "-c", code],
                env={**os.environ, "OPENBLAS_NUM_THREADS": str(threads)},
                capture_output=True,
                text=True,
                check=True,
            ).stdout
            for threads in (1, 2, 7)
        ]
        assert found[0].count("cosine") == 3
        assert found[0] == found[1] == found[2]

    def test_top1_agreement_lets_ties_be(self) -> None:
        ours = np.array([[0.5, 0.5, 0.1], [1.0, 0.0, 0.0]])
        theirs = np.array([[0.49, 0.5, 0.1], [0.0, 1.0, 0.0]])
        assert closeness(ours, theirs, kind="scores")[0]["top1_agreement"] == 0.5
        nan = np.full((2, 3), np.nan)
        assert closeness(ours, nan, kind="scores")[0]["top1_agreement"] == 0

    def test_boxes_in_pixels_and_in_fractions(self) -> None:
        boxes = np.random.default_rng(0).uniform(10, 600, (50, 4))
        moved = boxes + np.array([4, 0, 0, 0])
        assert closeness(boxes, moved, kind="boxes", pixels=640)[0]["shift_pixels"] == pytest.approx(4)
        assert closeness(boxes / 640, moved / 640, kind="boxes", pixels=640)[0]["shift_pixels"] == pytest.approx(4)

    @pytest.mark.parametrize("text", ["x", "1:2:3:4", "..., ...", "1-2"])
    def test_bad_indices(self, text: str) -> None:
        with pytest.raises(DataError):
            index_of(text)

    def test_indices(self) -> None:
        array = np.arange(24).reshape(2, 3, 4)
        for text in ("..., 1:", ":, 0", "1", "...", "..., -1", "::2, :, 1:3"):
            expected = eval(f"array[{text}]", {"array": array})
            assert np.array_equal(array[index_of(text)], expected)


class TestMeasure:
    def test_item_k_is_compared_with_item_k_and_the_worst_is_named(self) -> None:
        def off(x):
            y = x.copy()
            y[1] += x.sum() > 0 and 0.1
            return {"out": y}

        measured = pair(lambda x: {"out": x}, off)
        part = measured["slices"]["out"]
        assert part["samples"] == ["row-0", "row-1", "row-2", "row-3"]
        assert [value > 0.05 for value in part["max_abs"]] == [False, True, False, True]
        failed = [each for each in judge(measured, pair="torch~onnx", gates=Gates()) if each.verdict == "failed"]
        assert failed
        assert all(each.details["worst"] in ("row-1", "row-3") for each in failed)
        assert all("row-" in str(each.message) for each in failed)
        swapped = pair(lambda x: {"out": x}, lambda x: {"out": x[::-1]})
        assert any(each.verdict == "failed" for each in judge(swapped, pair="onnx~om", gates=Gates()))

    def test_sides_that_compute_ahead_measure_the_same(self) -> None:
        class Adding:
            def __init__(self, more: float, **of_its_own) -> None:
                self.more = more
                self.__dict__ |= of_its_own

            def run(self, feeds):
                return {"y": feeds["x"] * 2 + np.float32(self.more)}

            def close(self) -> None:
                pass

        drawn = np.random.default_rng(0).normal(size=(9, 2, 5)).astype(np.float32)
        samples = [Sample((f"{number}a", f"{number}b"), {"x": rows}) for number, rows in enumerate(drawn)]
        plain = measure(Adding(0), Adding(1e-3), samples)
        for kinds in ({"ways": 3}, {}), ({"ways": 2}, {"ways": 4}), ({}, {"stream": None}):
            reference, candidate = (
                Remembering(Adding(more, **kind)) for more, kind in zip((0, 1e-3), kinds, strict=True)
            )
            assert measure(reference, candidate, samples) == plain
        assert plain["slices"]["y"]["samples"] == [f"{number}{row}" for number in range(9) for row in "ab"]

    def test_measurements_are_json(self) -> None:
        measured = pair(lambda x: {"out": x, "zero": x * 0}, lambda x: {"out": x * np.nan, "zero": x * 0 + 1})
        assert judge(json.loads(json.dumps(measured)), pair="onnx~om", gates=Gates()) == judge(
            measured, pair="onnx~om", gates=Gates()
        )

    def test_shapes_that_differ_and_outputs_that_are_missing_fail(self) -> None:
        transposed = pair(lambda x: {"out": x}, lambda x: {"out": x.T})
        missing = pair(lambda x: {"out": x, "more": x}, lambda x: {"out": x})
        for measured in (transposed, missing):
            verdicts = [each.verdict for each in judge(measured, pair="onnx~om", gates=Gates())]
            assert "failed" in verdicts
        renamed = pair(lambda x: {"out": x}, lambda x: {"Conv_3:0": x})
        assert {each.verdict for each in judge(renamed, pair="onnx~om", gates=Gates())} == {"passed"}

    def test_nothing_compared_does_not_pass(self) -> None:
        measured = measure(Computed(lambda x: {"out": x}), Computed(lambda x: {"out": x}), Rows(), ())
        assert [each.verdict for each in judge(measured, pair="onnx~om", gates=Gates())] == ["failed"]

    @pytest.mark.parametrize(
        ("entry", "key"),
        [
            (Slice(name="a", output="nowhere"), "compare.no-output"),
            (Slice(name="a", index="..., 3:"), "compare.selects-nothing"),
            (Slice(name="a", index=":, :, :, 1"), "compare.index-out-of-range"),
        ],
    )
    def test_slices_that_select_nothing_are_errors(self, entry: Slice, key: str) -> None:
        with pytest.raises(DataError) as caught:
            pair(lambda x: {"out": x}, lambda x: {"out": x}, [entry])
        assert caught.value.message.key == key

    def test_a_slice_called_like_its_output(self) -> None:
        measured = pair(lambda x: {"out": x}, lambda x: {"out": x}, [Slice(name="out", index="..., 1:")])
        assert set(measured["slices"]) == {"out", "out.whole"}
        whole = pair(lambda x: {"out": x}, lambda x: {"out": x}, [Slice(name="scores", kind="scores")])
        assert set(whole["slices"]) == {"scores"}

    def test_bands_are_judged_by_the_worse(self) -> None:
        good = pair(lambda x: {"out": x}, lambda x: {"out": x})
        bad = pair(lambda x: {"out": x}, lambda x: {"out": x * 1.2})
        for merged in (worse(good, bad, ("fused", "unfused")), worse(bad, good, ("unfused", "fused"))):
            failed = [each for each in judge(merged, pair="onnx~om", gates=Gates()) if each.verdict == "failed"]
            assert [each.check for each in failed] == ["onnx~om/out/relative_l2"]
            assert failed[0].details["worst"].endswith("[unfused]")
            assert len(merged["slices"]["out"]["samples"]) == 8
            assert set(METRICS) < set(merged["slices"]["out"])
            figures = judge(merged, pair="onnx~om", gates=Gates())[0].details["metrics"]["relative_l2"]
            assert figures["bands"] == {"fused": 0.0, "unfused": figures["worst"]}
            assert figures["worst"] == pytest.approx(0.2)
        assert "bands" not in judge(good, pair="onnx~om", gates=Gates())[0].details["metrics"]["cosine"]


class TestJudge:
    @given(hnp.arrays(np.float32, (6, 5), elements=st.floats(0.125, 100, width=32)), st.floats(0, 0.02))
    @settings(max_examples=50)
    def test_small_noise_passes_for_fp16(self, x: np.ndarray, noise: float) -> None:
        # Where rows differ by hardly more than the limit, a constant answer would pass too: that is inconclusive.
        apart = np.linalg.norm(x - x[0], axis=1).max() / np.linalg.norm(x[0])
        assume(apart == 0 or apart > 0.3)
        stream = np.random.default_rng(0)
        samples = Rows([Sample(tuple(f"r{k}" for k in range(6)), {"x": x})])
        factor = 1 + noise * stream.uniform(-1, 1, x.shape)
        measured = pair(lambda v: {"out": v}, lambda v: {"out": v * factor}, samples=samples)
        judged = judge(measured, pair="onnx~om", gates=Gates())
        # Rows that are all equal are a network that never changes; small noise on them is still no fault.
        assert {each.verdict for each in judged if not each.check.endswith("/constant")} == {"passed"}

    def test_cosine_alone_never_passes(self) -> None:
        gates = Gates(onnx_om=Closeness(cosine=0.9, relative_l2=math.inf))
        measured = pair(lambda x: {"out": x}, lambda x: {"out": x * 3})
        verdicts = {each.check: each.verdict for each in judge(measured, pair="onnx~om", gates=gates)}
        assert verdicts["onnx~om/out/cosine"] == "passed"
        assert verdicts["onnx~om/out/size"] == "inconclusive"
        only_cosine = Gates(onnx_om=Closeness(cosine=0.9))
        assert "failed" in {each.verdict for each in judge(measured, pair="onnx~om", gates=only_cosine)}

    def test_limits_of_the_spec_win_and_slices_win_over_pairs(self) -> None:
        measured = pair(lambda x: {"out": x}, lambda x: {"out": x * 1.08}, [Slice(name="part", index="..., 1:")])
        gates = Gates(onnx_om=Closeness(relative_l2=0.01), slices={"part": Closeness(relative_l2=0.1)})
        verdicts = {each.check: each.verdict for each in judge(measured, pair="onnx~om", gates=gates)}
        assert verdicts["onnx~om/out/relative_l2"] == "failed"
        assert verdicts["onnx~om/part/relative_l2"] == "passed"
        loose = {each.check: each.verdict for each in judge(measured, pair="onnx~om", gates=Gates(), int8=True)}
        assert set(loose.values()) == {"passed"}

    def test_limits_of_int8_are_for_int8_alone(self) -> None:
        measured = pair(lambda x: {"out": x}, lambda x: {"out": x * 1.04})
        gates = Gates(int8=Closeness(relative_l2=0.01))
        for int8, expected in ((True, "failed"), (False, "passed")):
            verdicts = {each.check: each.verdict for each in judge(measured, pair="onnx~om", gates=gates, int8=int8)}
            assert verdicts["onnx~om/out/relative_l2"] == expected
        # A shift that the spec gives is in pixels of its own input; the default one is for 640.
        boxes = limits("onnx~om", Gates(int8=Closeness(shift_pixels=8.0)), kind="boxes", int8=True)
        assert boxes["shift_pixels"] == 8.0

    def test_rows_below_fp16_normals_do_not_fail_the_others(self) -> None:
        samples = rows(4)
        samples[0].feeds["x"][0] = 1e-7

        def rounded(x):
            return {"out": x.astype(np.float16).astype(np.float32)}

        measured = pair(lambda x: {"out": x}, rounded, samples=samples)
        assert measured["slices"]["out"]["relative_l2"][0] > 0.05
        assert {each.verdict for each in judge(measured, pair="onnx~om", gates=Gates())} == {"passed"}
        # A model whose outputs are all that small is not let off.
        for sample in samples:
            sample.feeds["x"][:] = 1e-7
        measured = pair(lambda x: {"out": x}, lambda x: {"out": x * 0}, samples=samples)
        assert "failed" in {each.verdict for each in judge(measured, pair="onnx~om", gates=Gates())}

    def test_limits_in_pixels_are_the_inputs_own_and_defaults_scale_with_it(self) -> None:
        def boxes(x):
            return np.random.default_rng(0).uniform(10, 300, (len(x), 50, 4))

        entry = Slice(name="boxes", kind="boxes")

        def verdict(shift: float, pixels: int, gates: Gates = Gates()) -> str:  # noqa: B008 - frozen
            samples = rows()
            samples.pixels = pixels
            moved = pair(lambda x: {"o": boxes(x)}, lambda x: {"o": boxes(x) + shift}, [entry], samples)
            judged = {each.check: each.verdict for each in judge(moved, pair="onnx~om", gates=gates)}
            return judged["onnx~om/boxes/shift_pixels"]

        assert (verdict(1.5, 640), verdict(1.5, 320), verdict(0.9, 320)) == ("passed", "failed", "passed")
        own = Gates(slices={"boxes": Closeness(shift_pixels=1.6)})
        assert verdict(1.5, 320, own) == "passed"
        pairs = Gates(onnx_om=Closeness(shift_pixels=1.6))
        assert verdict(1.5, 320, pairs) == "passed"

    def test_limits_of_a_pair_go_to_the_slices_they_mean_something_to(self) -> None:
        gates = Gates(onnx_om=Closeness(topk_agreement=0.9, shift_pixels=1, equal=0.5, cosine=0.9))

        def names(kind: str) -> set[str]:
            return set(limits("onnx~om", gates, kind=kind))

        assert names("values") == {"cosine", "relative_l2"}
        assert names("scores") == {"cosine", "relative_l2", "top1_agreement"}
        assert names("boxes") == {"cosine", "relative_l2", "shift_pixels"}
        assert names("labels") == {"equal"}
        assert limits("onnx~om", gates, kind="labels") == {"equal": 0.5}

    def test_labels_are_judged_by_equality(self) -> None:
        entry = Slice(name="classes", kind="labels")
        ours = np.random.default_rng(0).integers(0, 20, (2, 1000))
        theirs = ours.copy()
        theirs[0, :20] += 1
        measured = pair(lambda _: {"out": ours}, lambda _: {"out": theirs}, [entry])
        verdicts = {each.check: each.verdict for each in judge(measured, pair="onnx~om", gates=Gates())}
        assert verdicts == {
            "onnx~om/classes/new_nonfinite": "passed",
            "onnx~om/classes/lost_nonfinite": "passed",
            "onnx~om/classes/equal": "failed",
        }

    @pytest.mark.parametrize(("share", "verdict"), [(0, "passed"), (0.01, "failed")])
    def test_whole_numbers_without_a_slice_are_judged_by_equality(self, share, verdict) -> None:
        def numbers(x):
            return (x[:, :1] * 1e6 + np.arange(100)).astype(np.int64)

        def wrong(x):
            found = numbers(x)
            found[:, : int(100 * share)] += 1
            return {"out": found}

        judged = judge(pair(lambda x: {"out": numbers(x)}, wrong), pair="onnx~om", gates=Gates())
        assert {each.check: each.verdict for each in judged}["onnx~om/out/equal"] == verdict
        # Pixels are no class numbers: one more or less is rounding.
        pixels = pair(lambda x: {"o": (x * 255).astype(np.uint8)}, lambda x: {"o": (x * 255).astype(np.uint8) | 1})
        assert {each.verdict for each in judge(pixels, pair="onnx~om", gates=Gates())} == {"passed"}


class TestNotFinite:
    def judged(self, ours, theirs, names=None) -> dict[str, str]:
        """Verdicts where row k of the reference is ``ours[k]``, one row a sample, on random rows or on `names`."""
        names = names or [f"random-{row}" for row in range(len(ours))]
        samples = [Sample((name,), {"x": np.array([row])}) for row, name in enumerate(names)]
        both = (lambda x, side=side: {"out": np.asarray(side, np.float32)[x]} for side in (ours, theirs))
        measured = pair(*both, samples=samples)
        json.dumps(measured)
        return {each.check.split("/")[-1]: each.verdict for each in judge(measured, pair="onnx~om", gates=Gates())}

    @given(
        hnp.arrays(np.float32, (3, 6), elements=st.floats(1, 100, width=32), unique=True),
        st.integers(0, 17),
        st.sampled_from([np.nan, np.inf, -np.inf]),
        st.sampled_from([np.nan, np.inf, -np.inf, 0.0, None]),
    )
    def test_a_reference_that_is_not_finite_is_judged(self, x, place, ours, theirs) -> None:
        reference, candidate = x.copy(), x.copy()
        reference.flat[place] = ours
        if theirs is not None:
            candidate.flat[place] = theirs
        same = theirs is not None and ours == theirs
        assert self.judged(reference, candidate)["lost_nonfinite"] == ("passed" if same else "failed")
        assert self.judged(x, x)["lost_nonfinite"] == "passed"

    @pytest.mark.parametrize("candidate", [math.nan, 0.0, 1.0, math.inf])
    def test_a_reference_that_is_nan_everywhere_passes_nothing(self, candidate) -> None:
        verdicts = self.judged(np.full((3, 5), np.nan), np.full((3, 5), candidate))
        assert verdicts["lost_nonfinite"] == "failed"
        assert verdicts["relative_l2"] == verdicts["cosine"] == "not_measured"

    @pytest.mark.parametrize(
        ("bad", "names", "verdict"),
        [
            ([0], ("zeros", "random-0", "random-1"), "inconclusive"),
            ([0, 1], ("zeros", "random-0", "random-1"), "failed"),
            ([0, 1, 2], ("zeros [fused]", "zeros [unfused]", "zeros"), "failed"),
        ],
    )
    def test_nan_on_zeros_alone_decides_nothing(self, bad, names, verdict) -> None:
        x = np.arange(1.0, 16).reshape(3, 5)
        x[bad] = np.nan
        assert self.judged(x, x, names)["lost_nonfinite"] == verdict

    def test_a_network_that_never_changes_proves_nothing(self) -> None:
        row = np.array([3.0, 1.0, 2.0])
        assert self.judged([row] * 3, [row] * 3)["constant"] == "inconclusive"
        assert self.judged([row * 0], [row * 0])["constant"] == "inconclusive"
        assert "constant" not in self.judged([row, row, row + 1], [row, row, row + 1])
        assert "constant" not in self.judged([row], [row])

    def test_a_network_that_changes_by_rounding_alone_proves_nothing(self) -> None:
        row = np.array([3.0, 1.0, 1e-3], np.float32)
        near, other = np.nextafter(row, np.float32(9)), row * np.float32(1 + 1e-5)
        assert self.judged([row, near], [row, near])["constant"] == "inconclusive"
        assert "constant" not in self.judged([row, other], [row, other])

    def test_what_fp16_cannot_hold_is_named_as_the_reason(self) -> None:
        def message(pair_name: str, scale: float) -> str:
            x = np.arange(1.0, 16).reshape(3, 5) * scale
            measured = pair(lambda _: {"out": x}, lambda _: {"out": x * 0}, samples=rows(3))
            failed = [each for each in judge(measured, pair=pair_name, gates=Gates()) if each.verdict == "failed"]
            return next(each.message.key for each in failed if each.check.endswith("relative_l2"))

        assert message("onnx~om", 1e-9) == "compare.below-fp16"
        assert message("onnx~om", 1.0) == message("torch~onnx", 1e-9) == "compare.too-high"

    def test_most_rows_below_fp16_normals_are_inconclusive_and_a_sign_is_no_rounding(self) -> None:
        x = np.full((4, 5), 1e-6) * np.arange(1, 6)
        x[3] = np.arange(5)
        assert self.judged(x, np.where(x < 1e-5, 0, x))["too-small"] == "inconclusive"
        assert self.judged(x, np.where(x < 1e-5, -x, x))["relative_l2"] == "failed"

    def test_what_float32_makes_is_not_blamed_on_fp16(self) -> None:
        x = np.ones((2, 3))
        samples = rows(2)
        measured = pair(lambda _: {"out": x}, lambda _: {"out": x * np.nan}, samples=samples)
        texts = [str(judge(measured, pair=name, gates=Gates())[0].message.fix()) for name in ("torch~onnx", "onnx~om")]
        assert ["65504" in text for text in texts] == [False, True]


class TestColumns:
    """Boxes and scores in one output, and no slice says so."""

    @pytest.mark.parametrize("fault", ["none", "zeroed", "rolled"])
    def test_a_column_lost_beside_a_larger_one_fails(self, fault) -> None:
        def output(x, fault="none"):
            stream = np.random.default_rng(int(1e6 * x.sum()))
            boxes, scores = stream.uniform(0, 320, (len(x), 50, 4)), stream.uniform(0, 0.9, (len(x), 50, 5))
            scores = {"none": scores, "zeroed": scores * 0, "rolled": np.roll(scores, 1, -1)}[fault]
            return {"out": np.concatenate([boxes, scores], -1).astype(np.float32)}

        measured = pair(output, lambda x: output(x, fault))
        judged = {each.check.split("/")[-1]: each.verdict for each in judge(measured, pair="onnx~om", gates=Gates())}
        assert judged["column_l2"] == ("passed" if fault == "none" else "failed")
        assert judged["relative_l2"] == "passed", "the whole is as large as its boxes"


# ---------------------------------------------------------------------------------------------------- mutants

SLICES = (Slice(name="boxes", index="..., :4", kind="boxes"), Slice(name="scores", index="..., 5:", kind="scores"))


def detector(x: np.ndarray) -> np.ndarray:
    """Rows cx, cy, w, h, 1, scores as a detector gives them: most scores tiny, a few large; boxes up to 640."""
    stream = np.random.default_rng(7)
    weights = stream.normal(size=(3, 400 * 84))
    raw = (x @ weights).reshape(len(x), 400, 84)
    boxes = 320 + 150 * np.tanh(raw[..., :4])
    scores = 1 / (1 + np.exp(6 - 2 * raw[..., 4:]))
    return np.concatenate([boxes, np.ones_like(boxes[..., :1]), scores], -1).astype(np.float32)


def zeroed(out):
    out[..., 5:] = 0


def swapped(out):
    out[..., 5:] = np.roll(out[..., 5:], 1, -1)


def moved(out):
    out[..., :2] += 4


def moved_across(out):
    out[..., 0] += 4


def widened(out):
    out[..., 2] += 4


def dropped(out):
    out[..., 5 + 3] = 0


MUTANTS = [zeroed, swapped, moved, moved_across, widened]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
@pytest.mark.parametrize(("name", "int8"), [("torch~onnx", False), ("onnx~om", False), ("torch~om", True)])
def test_a_mutant_of_a_detector_fails_a_default_gate(mutant, name: str, int8: bool) -> None:
    def broken(x):
        out = detector(x)
        mutant(out)
        return {"out": out}

    measured = pair(lambda x: {"out": detector(x)}, broken, SLICES)
    verdicts = [each.verdict for each in judge(measured, pair=name, gates=Gates(), int8=int8)]
    assert "failed" in verdicts
    # The whole tensor alone would not have seen it, except where float32 rounding is the limit.
    if mutant is zeroed and name != "torch~onnx":
        whole = [each for each in judge(measured, pair=name, gates=Gates(), int8=int8) if "/out/" in each.check]
        assert {each.verdict for each in whole} == {"passed"}


def test_the_unbroken_detector_in_fp16_passes() -> None:
    measured = pair(
        lambda x: {"out": detector(x)}, lambda x: {"out": detector(x).astype(np.float16).astype(np.float32)}, SLICES
    )
    assert {each.verdict for each in judge(measured, pair="torch~om", gates=Gates())} == {"passed"}


@pytest.mark.parametrize(("pair", "own"), [("torchscript~onnx", "torch_onnx"), ("torchscript~om", "torch_om")])
def test_torchscript_has_the_limits_of_pytorch(pair: str, own: str) -> None:
    gates = Gates.model_validate({own: {"relative_l2": 0.123}})
    assert limits(pair, gates)["relative_l2"] == 0.123
    assert limits("torch~torchscript", gates)["relative_l2"] != 0.123


ODD = hnp.arrays(
    np.float32, st.integers(0, 12), elements=st.sampled_from([0.0, 1.0, -2.5, 1e-30, 3e38, np.nan, np.inf])
)


@given(ODD, st.data())
def test_the_distance_is_the_relative_l2(first, data) -> None:
    second = data.draw(
        st.one_of(st.just(first.copy()), hnp.arrays(np.float32, first.shape, elements=st.floats(width=32)))
    )
    values = figures(first, second)
    one_sided = values["new_nonfinite"] or values["lost_nonfinite"]
    assert distance(first, second) == (math.inf if one_sided else values["relative_l2"] or 0.0)


@given(ODD, ODD)
def test_the_figures_count_what_is_not_finite(first, second) -> None:
    size = min(len(first), len(second))
    ours, theirs = first[:size], second[:size]
    values = figures(ours, theirs)
    pairs = list(zip(ours.tolist(), theirs.tolist(), strict=True))
    assert values["new_nonfinite"] == sum(math.isfinite(r) and not math.isfinite(c) for r, c in pairs)
    assert values["undefined"] == sum(math.isnan(r) and math.isnan(c) for r, c in pairs)
    same = [r == c or (math.isnan(r) and math.isnan(c)) for r, c in pairs]
    assert values["lost_nonfinite"] == sum(
        not math.isfinite(r) and not s for (r, _), s in zip(pairs, same, strict=True)
    )
    assert values["equal"] == (np.mean(same) if pairs else 1.0)
    both = [(r, c) for r, c in pairs if math.isfinite(r) and math.isfinite(c)]
    assert values["max_abs"] == (max((abs(c - r) for r, c in both), default=0.0) if both or not pairs else None)
