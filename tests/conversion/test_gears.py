"""INT8 with gears: one deploy model, calibrated at one of them; each gear is what an OM of its shape alone computes."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from pth2om.accuracy import measure
from pth2om.conversion.data import fitted
from pth2om.conversion.pipeline import Pipeline, RunSettings
from pth2om.data import Batch, open_dataset
from pth2om.data.arrays import array_batches
from pth2om.spec import Gears, Input, Postprocess, Preprocess, Quantize, Source, Spec, Variant
from pth2om.store import Store

SOC = "Ascend310P3"


def net() -> nn.Module:
    torch.manual_seed(2)
    layers = [nn.Conv2d(3, 24, 3, padding=1), nn.ReLU(), nn.Conv2d(24, 32, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(32, 4)).eval()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint, and ``.bin`` batches of two pictures of 8 x 8."""
    folder = tmp_path_factory.mktemp("gears")
    torch.save(net(), folder / "m.pt")
    (folder / "bins").mkdir()
    generator = np.random.default_rng(5)
    for number in range(4):
        generator.normal(size=(2, 3, 8, 8)).astype(np.float32).tofile(folder / "bins" / f"{number}.bin")
    return folder


def pipeline(place: Path, store: Path, gears: Gears, *, aipp: bool = False) -> Pipeline:
    spec = Spec(
        name="m",
        folder=place,
        task="tensor",
        source=Source(checkpoint="m.pt"),
        inputs=(Input(name="x", shape=(3, 8, 8)),),
        preprocess=Preprocess(size=(8, 8), mean=(0.5,) * 3, std=(0.25,) * 3) if aipp else None,
        quantize=Quantize(bins=("bins",)),
        variants=(Variant(precision="int8", gears=gears, batch=1 if gears.batch else 2, aipp=aipp),),
    )
    return Pipeline(spec, RunSettings(place, place, (place,), soc=SOC), Store(store))


@pytest.mark.parametrize("aipp", [False, True])
@pytest.mark.parametrize("gears", [Gears(batch=(1, 2, 4)), Gears(image=((8, 8), (12, 10)))], ids=["batch", "image"])
def test_each_gear_is_its_int8_twin(place: Path, tmp_path: Path, gears: Gears, *, aipp: bool) -> None:
    run = pipeline(place, tmp_path, gears, aipp=aipp)
    try:
        files = {run.quantized(variant.shape).file for variant in run.spec.variants}
        assert len(files) == 1
        assert run.data.calibration(run.spec.variants[0].shape).images == 8
        assert len({run.om(variant).file for variant in run.spec.variants}) == 1
        for variant in run.spec.variants:
            sample = next(iter(run.data.samples(variant.shape, variant)))
            assert sample.feeds["x"].shape == variant.shape.of(run.spec.inputs[0])
            exact = run.onnx_session(variant.shape).run(sample.feeds)["output"]
            quantized = run.fake_quant_session(variant.shape).run(sample.feeds)["output"]
            assert 0 < np.abs(quantized - exact).max() < 0.05 * np.abs(exact).max()
            bands = run.om_sessions(variant)
            for band, alone in run.twin_sessions(variant).items():
                np.testing.assert_array_equal(
                    bands[band].run(sample.feeds)["output"], alone.run(sample.feeds)["output"]
                )
    finally:
        run.close()


def test_it_is_calibrated_at_the_gear_that_the_bins_have(place: Path, tmp_path: Path) -> None:
    shapes = {
        (1, 2, 4): 2,  # the bins hold two pictures
        (1, 4): 4,  # none has their size: the last
    }
    for batch, wanted in shapes.items():
        run = pipeline(place, tmp_path, Gears(batch=batch))
        assert run.data.calibrated_at(run.spec.variants[0].shape).batch == wanted


def test_what_fills_the_last_batch_of_a_gear_is_not_counted(place: Path, tmp_path: Path) -> None:
    """Six pictures through a gear of four: two rows of the second batch are padding, whatever they hold."""
    run = pipeline(place, tmp_path / "store", Gears(batch=(2, 4)))
    folder = tmp_path / "calib" / "six"
    folder.mkdir(parents=True)
    (folder / "dataset.toml").write_text('kind = "arrays"\nfile = "six.npz"\nnames = ["a", "b", "c", "d"]\n')
    pictures = np.random.default_rng(8).normal(size=(6, 3, 8, 8)).astype(np.float32)
    np.savez(folder / "six.npz", x=pictures, y=np.arange(6) % 4)
    found = open_dataset("six", calib_root=tmp_path / "calib")
    noise = np.random.default_rng(9)

    def spoilt(batch: int) -> Iterator[Batch]:
        for piece in array_batches(found, run.spec.inputs, batch):
            piece.array[piece.count :] = noise.normal(size=piece.array[piece.count :].shape) * 100
            yield piece

    try:
        measured = {}
        for variant in run.spec.variants:
            (session, *_) = run.om_sessions(variant).values()
            for name, source in (("whole", array_batches), ("spoilt", None)):
                make = functools.partial(spoilt, variant.batch)
                if source is not None:
                    make = functools.partial(source, found, run.spec.inputs, variant.batch)
                measured[variant.batch, name] = measure(
                    session, found, None, Postprocess(), batch=variant.batch, source=make
                )
    finally:
        run.close()
    one = measured[2, "whole"]
    assert one["images"] == 6
    for each in measured.values():
        assert (each["images"], each["top"], each["metrics"]) == (one["images"], one["top"], one["metrics"])


def test_batches_are_cut_or_repeated_to_a_shape() -> None:
    def feeds() -> Iterator[dict[str, np.ndarray]]:
        yield {"x": np.arange(6).reshape(2, 3), "ids": np.array([[7, 8, 9]])}

    (made,) = fitted(feeds, {"x": (3, 2), "ids": (1, 5)})
    assert made["x"].tolist() == [[0, 1], [3, 4], [0, 1]]
    assert made["ids"].tolist() == [[7, 8, 9, 7, 8]]
