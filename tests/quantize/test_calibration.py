"""Observers, range searches and the calibration pass, against exact NumPy on the raw values."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pth2om.errors import QuantizeError
from pth2om.quantize import ranges
from pth2om.quantize.calibrate import calibrate
from pth2om.quantize.histogram import Histogram
from pth2om.quantize.plan import make_plan
from pth2om.quantize.settings import QuantizeSettings
from tests.quantize.quantize_nets import every_kind, feeds, model, tensor

FLOATS = hnp.arrays(np.float32, st.integers(1, 300), elements=st.floats(-60000, 60000, width=32))


def observed(*parts):
    histogram = Histogram()
    for part in parts:
        histogram.update(np.asarray(part, np.float32))
    return histogram


def exact_error(x, scale, offset):
    q = np.clip(np.rint(x.astype(np.float64) / float(scale)) + offset, -128, 127)
    return np.mean(((q - offset) * float(scale) - x) ** 2)


def tensors():
    g = np.random.default_rng(0)
    x = g.standard_normal(200_000)
    heavy = g.standard_normal(200_000)
    heavy[:20] *= 40
    return {
        "relu": np.maximum(x, 0),
        "normal": x,
        "silu": 3 * x / (1 + np.exp(-3 * x)),
        "outliers": heavy,
        "negative": -np.abs(x),
        "shifted": x + 100,
    }


@settings(max_examples=60, deadline=None)
@given(FLOATS)
def test_counts_hold_every_value_to_half_a_unit_in_the_last_place(x):
    histogram = observed(x)
    values, counts = histogram.points()
    assert counts.sum() == x.size
    assert (histogram.lowest, histogram.highest) == (x.min(), x.max())
    rebuilt = np.repeat(values, counts.astype(int))
    gap = np.abs(np.sort(rebuilt) - np.sort(x.astype(np.float64)))
    assert np.all(gap <= np.maximum(np.abs(np.sort(x)) * 2.0**-11, 2.0**-25))


@settings(max_examples=30, deadline=None)
@given(FLOATS, FLOATS)
def test_merging_equals_seeing_everything_and_states_survive(a, b):
    one, other = observed(a), observed(b)
    one.merge(Histogram.from_state(other.state()))
    both = observed(a, b)
    assert np.array_equal(one.counts, both.counts)
    assert (one.lowest, one.highest, one.images) == (both.lowest, both.highest, both.images)


@pytest.mark.parametrize("asymmetric", [True, False])
@pytest.mark.parametrize("algorithm", ranges.ALGORITHMS)
@pytest.mark.parametrize("name", list(tensors()))
def test_every_range_is_sane(name, algorithm, asymmetric):
    x = tensors()[name].astype(np.float32)
    chosen = ranges.search(observed(x), algorithm, asymmetric=asymmetric)
    assert chosen.scale > 0
    assert -128 <= chosen.offset <= 127
    assert asymmetric or chosen.offset == 0
    assert chosen.lowest <= 1e-6
    assert chosen.highest >= -1e-6
    assert 10 * np.log10(np.mean(x**2) / exact_error(x, chosen.scale, chosen.offset)) > (
        3 if name == "outliers" else 18
    )


@pytest.mark.parametrize("name", ["relu", "normal", "silu", "outliers", "shifted"])
def test_mse_is_within_two_percent_of_the_best_range_of_a_fine_grid_on_raw_values(name):
    x = tensors()[name].astype(np.float32)
    ours = ranges.search(observed(x), "mse")
    best = min(
        exact_error(x, one.scale, one.offset)
        for a in (np.linspace(0.3, 1, 15) if x.min() < 0 else [1.0])
        for b in np.linspace(0.1, 1, 46)
        for one in [ranges.from_limits(min(x.min(), 0) * a, x.max() * b, True)]
    )
    assert exact_error(x, ours.scale, ours.offset) <= 1.02 * best


def ifmr_by_definition(x, asymmetric):
    """AMCT's search on the raw values, as its description says."""
    x = np.sort(x.astype(np.float64).reshape(-1))
    k = x.size - int(0.999999 * x.size)
    high, low = max(x[-k], 0), min(x[k - 1], 0)
    limit = 128 if -low > high else 127
    losses, scales = [], []
    for ratio in np.arange(0.7, 1.3, 0.01):
        end = ratio * (high if asymmetric else max(high, -low))
        s, floor = ((end - low) / 255, low) if asymmetric else (end / limit, -end)
        clipped = np.clip(x, floor, end)
        losses.append(np.mean((np.rint(clipped / s) * s - x) ** 2))
        scales.append(s)
    return np.asarray(losses), np.asarray(scales)


@pytest.mark.parametrize("asymmetric", [True, False])
@pytest.mark.parametrize("name", ["relu", "normal", "silu", "outliers"])
def test_ifmr_is_amcts(name, asymmetric):
    x = tensors()[name].astype(np.float32)
    losses, scales = ifmr_by_definition(x, asymmetric)
    ours = ranges.search(observed(x), "ifmr", asymmetric=asymmetric)
    at = int(np.argmin(np.abs(scales - ours.scale)))
    assert scales[at] == pytest.approx(ours.scale, rel=1e-5), "one of AMCT's 60 candidates"
    assert losses[at] <= 1.005 * losses.min(), "and its loss is AMCT's least to half a percent"
    if asymmetric and x.min() >= 0:
        assert ours.offset == -128


def test_minmax_is_exact_in_fp32_and_percentile_within_one_bin_of_numpys():
    x = tensors()["normal"].astype(np.float32)
    chosen = ranges.search(observed(x), "minmax")
    assert chosen.scale == np.float32((np.float64(x.max()) - np.float64(x.min())) / 255)
    cut = ranges.search(observed(x), "percentile", percentile=0.999)
    low, high = np.quantile(x, [0.0005, 0.9995])
    width = (x.max() - x.min()) / 2048
    assert abs(cut.scale * 255 - (high - low)) < 2 * width


def test_entropy_really_searches():
    g = np.random.default_rng(1)
    x = g.standard_normal(300_000).astype(np.float32)
    x[:3] = 50
    chosen = ranges.search(observed(x), "entropy", asymmetric=False)
    assert 3 < chosen.highest < 15


def hfmg_by_definition(x, bins):
    """HFMG as AMCT describes it, on the raw values: ranges by cutting bins, errors integrated numerically."""
    mass, edges = np.histogram(x, bins)
    step = max(np.ceil(x.size / 1e5), 1)
    left, right, low, high = 0, bins - 1, 0, 0
    ranges_seen = [(0, bins - 1)]
    while right - left > np.ceil(bins / 4):
        a, b = left, right
        while mass[: a + 1].sum() < low + step:
            a += 1
        while mass[b:].sum() < high + step:
            b -= 1
        if a - left > right - b:
            left, low = a, low + step
        else:
            right, high = b, high + step
        if (left, right) != ranges_seen[-1]:
            ranges_seen.append((left, right))
    fine = 50
    points = (np.arange(bins * fine) + 0.5) / fine * (edges[1] - edges[0]) + edges[0]
    weight = np.repeat(mass / fine, fine)
    losses = []
    for left, right in ranges_seen:
        width = (edges[right + 1] - edges[left]) / 256
        level = np.clip(np.floor((points - edges[left]) / width), 0, 255)
        losses.append(np.dot((points - edges[left] - (level + 0.5) * width) ** 2, weight))
    return {(edges[left], edges[right + 1]): loss for (left, right), loss in zip(ranges_seen, losses, strict=True)}


@pytest.mark.parametrize("name", ["relu", "normal", "outliers", "silu"])
def test_hfmg_is_amcts(name):
    x = tensors()[name].astype(np.float32)[:40_000]
    losses = hfmg_by_definition(x, 512)
    chosen = ranges.search(observed(x), "hfmg", bins=512)
    low, high = min(losses, key=losses.get)
    width = (x.max() - x.min()) / 512
    # Counts are by FP16 code, so a cut may fall one bin beside that of the raw values.
    assert abs(chosen.scale * 255 - (max(high, 0) - min(low, 0))) < 3 * width, (chosen, low, high)
    assert len(losses) > 3, "there was something to choose from"


@pytest.mark.parametrize("algorithm", ["hfmg", "entropy"])
@pytest.mark.parametrize("largest", [65504.0, 1e6])
def test_values_at_the_end_of_fp16_and_beyond_are_counted(algorithm, largest):
    x = np.linspace(-largest, largest, 4001)
    chosen = ranges.search(observed(x), algorithm)
    assert chosen.highest > 0.7 * min(largest, 65504.0)
    assert chosen.lowest < -0.7 * min(largest, 65504.0)


def test_symmetric_rule_of_127_and_128():
    assert ranges.from_limits(-1, 2, False) == ranges.Range(np.float32(2 / 127), 0)
    assert ranges.from_limits(-2, 1, False) == ranges.Range(np.float32(2 / 128), 0)
    assert ranges.from_limits(0, 0, True) == ranges.Range(np.float32(1), -128)


def conv(channels=24, **extra):
    g = np.random.default_rng(0)
    return model(
        [onnx.helper.make_node("Conv", ["x", "w"], ["y"], name="conv", pads=[1, 1, 1, 1], **extra)],
        [tensor("w", g.standard_normal((8, channels, 3, 3)).astype(np.float32))],
        [("x", ["n", channels, 8, 8])],
        [("y", ["n", 8, 8, 8])],
    )


@pytest.mark.parametrize("counted", [17, 20, 32])
def test_an_interruption_while_a_batch_is_counted_spoils_nothing(tmp_path, monkeypatch, counted):
    from pth2om.quantize import histogram as observe

    data, state, calls, count = list(feeds(40)), tmp_path / "state.npz", [], np.bincount

    def interrupted(*values, **more):
        calls.append(1)
        if len(calls) == counted:
            raise KeyboardInterrupt
        return count(*values, **more)

    with monkeypatch.context() as patch:
        patch.setattr(observe.np, "bincount", interrupted)
        with pytest.raises(KeyboardInterrupt):
            calibrate(conv(), {"x": 1}, data, state=state, key="k")
    again = calibrate(conv(), {"x": 1}, data, state=state, key="k")
    assert again.resumed == 16, "the last whole state"
    whole = calibrate(conv(), {"x": 1}, data)
    np.testing.assert_array_equal(again.histograms["x"].counts, whole.histograms["x"].counts)
    assert (again.batches, again.images, again.digest) == (whole.batches, whole.images, whole.digest)


def test_an_interrupted_calibration_goes_on_where_it_was(tmp_path):
    data = feeds(40)
    state = tmp_path / "state.npz"
    whole = calibrate(conv(), {"x": 1}, data)

    def stopping(after):
        for number, batch in enumerate(data):
            if number == after:
                raise KeyboardInterrupt
            yield batch

    with pytest.raises(KeyboardInterrupt):
        calibrate(conv(), {"x": 1}, stopping(23), state=state, key="k")
    ran = []
    again = calibrate(conv(), {"x": 1}, data, state=state, key="k", progress=lambda done, _: ran.append(done))
    assert again.resumed == 23
    assert ran == list(range(24, 41))
    assert again.digest == whole.digest
    assert np.array_equal(again.histograms["x"].counts, whole.histograms["x"].counts)
    assert np.allclose(again.histograms["x"].channel_mean, whole.histograms["x"].channel_mean, rtol=1e-12)
    assert calibrate(conv(), {"x": 1}, data, state=state, key="other").resumed == 0
    with pytest.raises(QuantizeError):
        calibrate(conv(), {"x": 1}, feeds(40, seed=99), state=state, key="other")
    state.write_bytes(state.read_bytes()[:100])
    assert calibrate(conv(), {"x": 1}, data, state=state, key="k").resumed == 0


def test_an_interrupt_while_a_batch_is_counted_leaves_a_state_that_goes_on(tmp_path, monkeypatch):
    """Ctrl-C reaches the main thread while others count the batch to its end."""
    from pth2om.quantize import calibrate as module

    data, state = feeds(5), tmp_path / "state.npz"
    whole, observe, seen = calibrate(conv(), {"x": 1}, data), module._observe, []

    def interrupted(*arguments):
        observe(*arguments)
        seen.append(1)
        if len(seen) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(module, "_observe", interrupted)
    with pytest.raises(KeyboardInterrupt):
        calibrate(conv(), {"x": 1}, data, state=state, key="k")
    monkeypatch.undo()
    again = calibrate(conv(), {"x": 1}, data, state=state, key="k")
    assert (again.resumed, again.digest) == (3, whole.digest)
    assert np.array_equal(again.histograms["x"].counts, whole.histograms["x"].counts)


def test_a_disk_that_is_full_during_calibration_is_told(tmp_path):
    """The counts are kept every 16 batches; a file in the way of their folder stands for the full disk."""
    (tmp_path / "full").write_text("")
    with pytest.raises(QuantizeError, match="full"):
        calibrate(conv(), {"x": 1}, feeds(17), state=tmp_path / "full" / "state.npz", key="k")


def test_the_runtime_counts_what_numpy_counts():
    """Codes, extremes and channel means are taken by ONNX Runtime; here they are taken from the tensors themselves."""
    net = every_kind()
    names = {"t3": 1, "t5": 1, "t7": None, "t13": -1}
    data = feeds(3)
    found = calibrate(net, names, data).histograms
    with_tensors = onnx.ModelProto()
    with_tensors.CopyFrom(net)
    with_tensors.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    session = onnxruntime.InferenceSession(with_tensors.SerializeToString(), providers=["CPUExecutionProvider"])
    for name, axis in names.items():
        values = [session.run([name], batch)[0] for batch in data]
        whole = np.concatenate([value.reshape(-1) for value in values])
        codes = whole.astype(np.float16).view(np.uint16)
        assert np.array_equal(found[name].counts, np.bincount(codes, minlength=65536)), name
        assert (found[name].lowest, found[name].highest) == (whole.min(), whole.max())
        if axis is None:
            assert found[name].channel_mean is None
        else:
            others = tuple(number for number in range(values[0].ndim) if number != axis % values[0].ndim)
            mean = np.concatenate(values).mean(axis=others, dtype=np.float64)
            assert np.allclose(found[name].channel_mean, mean, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("value", "image"), [(np.nan, 3), (np.inf, 3), (-np.inf, 3), (1e30, None)])
def test_a_value_that_is_not_finite_is_found_with_its_image(value, image):
    net = model(
        [
            onnx.helper.make_node("Relu", ["x"], ["r"], name="relu"),
            onnx.helper.make_node("Neg", ["x"], ["t"], name="neg"),
            onnx.helper.make_node("Conv", ["t", "w"], ["y"], name="conv"),
        ],
        [tensor("w", np.ones((4, 24, 1, 1), np.float32))],
        [("x", [2, 24, 4, 4])],
        [("y", [2, 4, 4, 4]), ("r", [2, 24, 4, 4])],
    )
    data = [{"x": np.ones((2, 24, 4, 4), np.float32)} for _ in range(3)]
    data[1]["x"][1, 5, 2, 2] = value
    found = calibrate(net, {"t": 1}, data).histograms["t"]
    assert found.not_finite == image
    assert found.overflow == (1 if image is None else 0)
    assert np.isfinite(found.lowest)
    assert np.isfinite(found.highest)


def test_the_image_is_named_of_a_tensor_whose_rows_are_pieces_of_images():
    net = model(
        [
            onnx.helper.make_node("Reshape", ["x", "flat"], ["t"], name="flat"),
            onnx.helper.make_node("MatMul", ["t", "w"], ["y"], name="matmul"),
        ],
        [tensor("w", np.ones((24, 4), np.float32)), tensor("flat", np.asarray([-1, 24], np.int64))],
        [("x", [2, 7, 24])],
        [("y", [14, 4])],
    )
    data = [{"x": np.ones((2, 7, 24), np.float32)} for _ in range(3)]
    data[1]["x"][1, 3, 2] = np.nan
    for axis in (-1, None):
        assert calibrate(net, {"t": axis}, data).histograms["t"].not_finite == 3


def test_several_sessions_see_what_one_sees():
    net = every_kind()
    names = {"t3": 1, "t5": 1, "t7": 1, "t8": 1}
    one = calibrate(net, names, feeds())
    many = calibrate(net, names, feeds(), memory=4096)
    for name in names:
        assert np.array_equal(one.histograms[name].counts, many.histograms[name].counts)


def plan_of(data, net=None, **kwargs):
    return make_plan(net or conv(), data, QuantizeSettings(**kwargs))


def test_bad_activations_are_named_and_stay_in_floating_point():
    good = feeds(3)
    bad = [dict(batch) for batch in good]
    bad[1] = {"x": bad[1]["x"].copy()}
    bad[1]["x"][1, 0, 0, 0] = np.nan
    with pytest.raises(QuantizeError) as caught:
        plan_of(bad)
    assert caught.value.message.key == "quantize.nothing-left"
    found = calibrate(conv(), {"x": 1}, bad).histograms["x"]
    assert found.not_finite == 3, "the second image of the second batch of two"
    two = model(
        [
            onnx.helper.make_node("Conv", ["x", "w"], ["a"], name="first"),
            onnx.helper.make_node("Sqrt", ["a"], ["b"], name="sqrt"),
            onnx.helper.make_node("Conv", ["b", "v"], ["y"], name="second"),
        ],
        [
            tensor("w", -np.ones((20, 24, 1, 1), np.float32)),
            tensor("v", np.ones((4, 20, 1, 1), np.float32)),
        ],
        [("x", [2, 24, 8, 8])],
        [("y", [2, 4, 8, 8])],
    )
    plan = plan_of([{"x": np.abs(batch["x"])} for batch in good], two)
    assert list(plan.quantized) == ["first"]
    finding = next(one for one in plan.findings if one.rule == "quantize.not-finite")
    assert (finding.node, finding.message.values["image"]) == ("second", 0)


def test_dead_constant_and_overflowing_activations_are_told():
    with pytest.raises(QuantizeError):
        plan_of([{"x": np.zeros((1, 24, 8, 8), np.float32)}])
    plan = plan_of([{"x": np.full((1, 24, 8, 8), 2, np.float32)}] * 2)
    assert "quantize.constant-activation" in {finding.rule for finding in plan.findings}
    plan = plan_of([{"x": feeds(1)[0]["x"] * 1e5}])
    assert "quantize.fp16-overflow" in {finding.rule for finding in plan.findings}


def test_memory_does_not_grow_with_the_number_of_images():
    import tracemalloc

    def peak(count):
        stream = (
            {"x": np.random.default_rng(n).standard_normal((1, 24, 64, 64)).astype(np.float32)} for n in range(count)
        )
        tracemalloc.start()
        calibrate(conv(), {"x": 1}, stream)
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return top

    assert peak(64) < 1.05 * peak(8)


def test_no_batch_and_wrong_batches():
    with pytest.raises(QuantizeError) as caught:
        plan_of([])
    assert caught.value.message.key == "quantize.no-data"
    with pytest.raises(QuantizeError) as caught:
        plan_of([{"x": np.zeros((1, 3, 8, 8), np.float32)}], every_kind())
    assert caught.value.message.key == "quantize.does-not-fit"


def test_a_constant_activation_is_neither_clipped_nor_drawn_without_width():
    from pth2om.quantize import api
    from pth2om.quantize.sensitivity import range_picture

    plan = plan_of([{"x": np.full((2, 24, 8, 8), 60000, np.float32)}], activations="minmax")
    (row,) = api.layer_reports(plan)
    assert row.clipped == 0
    picture = range_picture(plan, "conv")
    assert np.all(np.diff(picture["edges"]) > 0)
    assert sum(picture["counts"]) == 2 * 24 * 64
