"""Copies of an image are found in another dataset whatever their size and quality, and other images are not."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pth2om.conversion.int8_stage import Int8Stage
from pth2om.data import alike, open_dataset
from pth2om.errors import Absent
from pth2om.quantize.calibration_data import CalibrationData
from pth2om.spec import Shape
from pth2om.store import Store


def picture(seed: int, side: int = 96) -> np.ndarray:
    """Soft blobs of colour, as photographs have them."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC))


def stored_again(pixels: np.ndarray, quality: int, scale: float) -> np.ndarray:
    image = Image.fromarray(pixels)
    size = max(16, round(image.width * scale)), max(16, round(image.height * scale))
    buffer = io.BytesIO()
    image.resize(size, Image.Resampling.BILINEAR).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer).convert("RGB"))


def folder(root: Path, name: str, pictures: dict[str, np.ndarray]) -> None:
    (root / name / "images").mkdir(parents=True)
    (root / name / "dataset.toml").write_text('kind = "images"\nimages = "images"\nlabels = ""\n')
    for file, pixels in pictures.items():
        Image.fromarray(pixels).save(root / name / "images" / file)


@given(st.integers(0, 10_000), st.integers(40, 95), st.floats(0.5, 1.5))
def test_a_copy_is_alike(seed: int, quality: int, scale: float) -> None:
    original = picture(seed)
    one, other = alike.fingerprint(original), alike.fingerprint(stored_again(original, quality, scale))
    assert one is not None
    assert other is not None
    assert int(np.unpackbits(one.bits ^ other.bits).sum()) <= alike.MOST_BITS
    assert np.abs(one.grey - other.grey).mean() <= alike.MOST_LEVELS


def test_what_cannot_be_told_apart_has_no_fingerprint() -> None:
    assert alike.fingerprint(picture(0, 8)) is None
    assert alike.fingerprint(np.full((64, 64, 3), 128, np.uint8)) is None


@pytest.fixture
def datasets(tmp_path: Path) -> Path:
    ours = {f"a{number}.png": picture(number) for number in range(6)}
    theirs = {f"b{number}.png": picture(100 + number) for number in range(30)}
    theirs["copy.png"] = stored_again(ours["a4.png"], 60, 0.6)
    theirs["same.png"] = ours["a1.png"]
    folder(tmp_path, "calibrating", ours)
    folder(tmp_path, "scored", theirs)
    (tmp_path / "scored" / "images" / "broken.png").write_bytes(b"\x89PNG")
    return tmp_path


def test_copies_are_named_and_no_others(datasets: Path) -> None:
    calibration, scored = (open_dataset(name, calib_root=datasets) for name in ("calibrating", "scored"))
    seen: list[int] = []
    assert alike.alike(calibration, 6, scored, seen.append) == [("a1.png", "same.png"), ("a4.png", "copy.png")]
    assert seen == list(range(1, 6 + 33 + 1))
    assert alike.alike(calibration, 1, scored) == []


def test_int8_says_so_once_it_is_known(datasets: Path) -> None:
    """Asked of every scored dataset that is here, kept in the store, and never of itself."""
    opened = {name: open_dataset(name, calib_root=datasets) for name in ("calibrating", "scored")}
    asked: list[str] = []

    def dataset(name: str, subset: int | None = None) -> object:
        asked.append(name)
        if name not in opened:
            raise Absent("pipeline.no-calibration", where=name, model=name)
        return opened[name]

    store = Store(datasets / "store")
    entries = [SimpleNamespace(name=name, subset=None) for name in ("absent", "scored")]
    source = SimpleNamespace(spec=SimpleNamespace(datasets=entries, name="net"), store=store)
    stage = Int8Stage(source, SimpleNamespace(dataset=dataset), None, Shape(1), None)
    data = CalibrationData("calibrating", opened["calibrating"].digest, 6, 6, lambda: iter(()))
    (finding,) = stage._alike(data)
    assert (finding.rule, finding.severity) == ("pipeline.calibrated-on-alike", "warning")
    assert "2 of the 6 calibration images of calibrating look like images of scored" in finding.message.render("en")
    assert "a1.png" in finding.message.render("zh")
    assert [entry.stage for entry in store.entries()] == ["alike"]
    assert list(stage._alike(data)) == [finding]
    assert list(stage._alike(CalibrationData("calibrating", "r", 1, 1, lambda: iter(()), random=True))) == []
