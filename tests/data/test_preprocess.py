"""Decoding, geometry, normalization, batches and samples."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from pth2om.data import Preprocessor, batches, open_dataset
from pth2om.data.image import decode
from pth2om.data.labelled import Kept
from pth2om.data.preprocess import Geometry, plausibility, sobel
from pth2om.data.samples import samples
from pth2om.errors import DataError
from pth2om.spec import Input, Preprocess, Source, Spec

IMAGE = np.random.default_rng(3).integers(0, 256, (20, 30, 3), dtype=np.uint8)


class TestDecode:
    def test_grayscale_palette_cmyk_alpha_one_bit(self, tmp_path: Path) -> None:
        grey = Image.fromarray(IMAGE).convert("L")
        grey.save(tmp_path / "grey.png")
        assert np.array_equal(decode(tmp_path / "grey.png")[:, :, 1], np.asarray(grey))
        palette = Image.fromarray(IMAGE).quantize(16)
        palette.save(tmp_path / "palette.png", transparency=0)
        assert np.array_equal(decode(tmp_path / "palette.png"), np.asarray(palette.convert("RGB")))
        alpha = np.dstack([IMAGE, np.arange(600, dtype=np.uint16).reshape(20, 30).astype(np.uint8)])
        Image.fromarray(alpha).save(tmp_path / "alpha.png")
        assert np.array_equal(decode(tmp_path / "alpha.png"), IMAGE)
        Image.fromarray(IMAGE).convert("CMYK").save(tmp_path / "cmyk.tif")
        assert np.array_equal(decode(tmp_path / "cmyk.tif"), IMAGE)
        Image.fromarray(IMAGE).convert("1").save(tmp_path / "bits.png")
        assert set(np.unique(decode(tmp_path / "bits.png"))) <= {0, 255}
        grey_alpha = np.dstack([np.asarray(grey), np.full((20, 30), 9, np.uint8)])
        Image.fromarray(grey_alpha).save(tmp_path / "la.png")
        assert np.array_equal(decode(tmp_path / "la.png")[:, :, 2], np.asarray(grey))

    def test_sixteen_bits_are_scaled_not_cut(self, tmp_path: Path) -> None:
        deep = (np.arange(600).reshape(20, 30) * 100).astype(np.uint16)
        Image.fromarray(deep).save(tmp_path / "deep.png")
        expected = np.rint(deep / 257).astype(np.uint8)
        assert np.array_equal(decode(tmp_path / "deep.png")[:, :, 0], expected)

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_exif_orientation_is_applied(self, tmp_path: Path, orientation: int) -> None:
        exif = Image.Exif()
        exif[274] = orientation
        Image.fromarray(IMAGE).save(tmp_path / "turned.png", exif=exif)
        # EXIF 2.3, table 6: what row 0 and column 0 of the stored picture are.
        turned = {
            1: IMAGE,
            2: IMAGE[:, ::-1],
            3: IMAGE[::-1, ::-1],
            4: IMAGE[::-1],
            5: IMAGE.transpose(1, 0, 2),
            6: np.rot90(IMAGE, -1),
            7: IMAGE[::-1, ::-1].transpose(1, 0, 2),
            8: np.rot90(IMAGE),
        }[orientation]
        assert np.array_equal(decode(tmp_path / "turned.png"), turned)

    @given(st.integers(0, 400), st.binary(min_size=1, max_size=4))
    @settings(max_examples=60, deadline=None)
    def test_damaged_files_never_give_a_traceback(self, place: int, junk: bytes) -> None:
        import tempfile

        buffer = io.BytesIO()
        Image.fromarray(IMAGE).save(buffer, "JPEG")
        data = bytearray(buffer.getvalue())
        data[place : place + len(junk)] = junk
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "x.jpg"
            path.write_bytes(bytes(data[: len(data) - place % 7]))
            try:
                pixels = decode(path)
            except DataError as error:
                said = str(error)
            else:
                said = str(path) if pixels.dtype == np.uint8 else ""
            assert str(path) in said


class TestPreprocess:
    def test_equals_totensor_and_normalize_bit_for_bit(self) -> None:
        mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
        got, _ = Preprocessor(Preprocess(size=(20, 30), mean=mean, std=std))(IMAGE)
        tensor = torch.from_numpy(IMAGE.transpose(2, 0, 1).copy()).to(torch.float32).div(255)
        tensor = tensor.sub_(torch.tensor(mean)[:, None, None]).div_(torch.tensor(std)[:, None, None])
        assert got.dtype == np.float32
        assert np.array_equal(got, tensor.numpy())

    def test_colour_orders(self) -> None:
        rgb, _ = Preprocessor(Preprocess(size=(20, 30), scale=1))(IMAGE)
        bgr, _ = Preprocessor(Preprocess(size=(20, 30), scale=1, color="BGR"))(IMAGE)
        grey, _ = Preprocessor(Preprocess(size=(20, 30), scale=1, color="GRAY"))(IMAGE)
        assert np.array_equal(rgb[::-1], bgr)
        assert grey.shape == (1, 20, 30)
        assert np.abs(grey[0] - IMAGE @ np.array([0.299, 0.587, 0.114])).max() <= 0.51

    def test_grey_images_keep_their_values(self) -> None:
        flat = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16)[:, :, None], 3, 2)
        grey, _ = Preprocessor(Preprocess(size=(16, 16), scale=1, color="GRAY"))(flat)
        assert np.array_equal(grey[0], flat[:, :, 0])

    def test_centre_crop_of_227_starts_at_2(self) -> None:
        image = np.zeros((227, 227, 3), np.uint8)
        image[2, 2] = 255
        got, geometry = Preprocessor(Preprocess(size=(224, 224), crop="centre"))(image)
        assert got[:, 0, 0].tolist() == [1, 1, 1]
        assert (geometry.offset_x, geometry.offset_y) == (-2, -2)

    def test_crop_larger_than_the_image_is_black_around(self) -> None:
        got, geometry = Preprocessor(Preprocess(size=(23, 30), crop="centre"))(IMAGE)
        assert np.all(got[:, 0] == 0)
        assert np.all(got[:, -2:] == 0)
        assert np.array_equal(got[:, 1:21], IMAGE.transpose(2, 0, 1) / np.float32(255))
        assert geometry.offset_y == 1

    def test_shorter_side(self) -> None:
        spec = Preprocess(size=(10, 10), resize="shorter", resize_to=11, crop="centre")
        placed, geometry = Preprocessor(spec).place(IMAGE)
        expected = np.asarray(Image.fromarray(IMAGE).resize((16, 11), Image.Resampling.BILINEAR))
        assert np.array_equal(placed, expected[0:10, 3:13])
        assert geometry.scale_y == 11 / 20

    def test_wrong_size_is_said_with_the_file(self) -> None:
        with pytest.raises(DataError, match=r"dog\.jpg: .*20 x 30.*8 x 8"):
            Preprocessor(Preprocess(size=(8, 8)))(IMAGE, where="dog.jpg")

    @given(
        st.integers(1, 90),
        st.integers(1, 90),
        st.sampled_from(["centre", "top_left"]),
        st.booleans(),
        st.tuples(st.integers(8, 64), st.integers(8, 64)),
    )
    @settings(max_examples=120, deadline=None)
    def test_letterbox_keeps_ratio_and_maps_boxes_back(self, height, width, place, scale_up, size) -> None:
        image = np.full((height, width, 3), 200, np.uint8)
        spec = Preprocess(size=size, resize="letterbox", letterbox=place, scale_up=scale_up, fill=9, scale=1)
        placed, geometry = Preprocessor(spec).place(image)
        assert placed.shape == (*size, 3)
        inside = placed[:, :, 0] == 200
        rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
        assert np.all(placed[~inside] == 9)
        # The picture fills the box that the geometry gives, to within the rounding of a pixel.
        box = geometry.boxes_to_input(np.array([[0, 0, width, height]]))[0]
        got = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
        assert np.abs(box - got).max() <= 1.0
        if place == "top_left":
            assert got[0] == got[1] == 0
        else:
            assert abs((size[1] - got[2]) - got[0]) <= 1
            assert abs((size[0] - got[3]) - got[1]) <= 1
        if not scale_up:
            assert geometry.scale_x <= 1

    @given(
        st.lists(st.tuples(*[st.floats(0, 1)] * 4), max_size=8),
        st.floats(0.1, 5),
        st.floats(0.1, 5),
        st.floats(-50, 50),
        st.floats(-50, 50),
    )
    def test_geometry_is_invertible(self, corners, scale_x, scale_y, offset_x, offset_y) -> None:
        geometry = Geometry(100, 200, scale_x, scale_y, offset_x, offset_y)
        boxes = np.array(corners, dtype=float).reshape(-1, 4) * [200, 100, 200, 100]
        assert np.allclose(geometry.boxes_to_image(geometry.boxes_to_input(boxes)), boxes, atol=1e-6)

    def test_sobel_against_scipy(self) -> None:
        luma = IMAGE @ np.array([0.299, 0.587, 0.114]) / 255
        expected = np.hypot(ndimage.sobel(luma, 0, mode="mirror"), ndimage.sobel(luma, 1, mode="mirror"))
        got, _ = Preprocessor(Preprocess(size=(20, 30), extra="sobel", mean=(0.5,) * 3, std=(0.5,) * 3))(IMAGE)
        assert got.shape == (4, 20, 30)
        assert np.allclose(got[3], expected / np.sqrt(20), atol=1e-6)

    @given(st.integers(0, 2**9 - 1))
    def test_sobel_stays_in_0_to_1(self, bits: int) -> None:
        pattern = np.array([255 * (bits >> k & 1) for k in range(9)], np.uint8).reshape(3, 3, 1).repeat(3, 2)
        assert sobel(pattern).min() >= 0
        assert sobel(pattern).max() <= 1 + 1e-6


def model(preprocess: Preprocess, **more: object) -> Spec:
    channels = (1 if preprocess.color == "GRAY" else 3) + (preprocess.extra != "none")
    inputs = more.pop("inputs", (Input(name="image", shape=(channels, *preprocess.size)),))
    return Spec(
        name="m",
        folder=Path(),
        task="classification",
        source=Source(checkpoint="x.pth"),
        inputs=inputs,
        preprocess=preprocess,
        **more,
    )


@pytest.fixture
def seven(tmp_path: Path):
    folder = tmp_path / "calib" / "seven"
    folder.mkdir(parents=True)
    (folder / "dataset.toml").write_text('kind = "npz"\n')
    pixels = np.random.default_rng(1).integers(0, 256, (7, 4, 4, 3), dtype=np.uint8)
    np.savez(folder / "seven.npz", x=pixels, y=np.arange(7))
    return open_dataset("seven", calib_root=tmp_path / "calib")


class TestBatches:
    def test_the_last_is_filled_up_and_says_so(self, seven) -> None:
        preprocessor = Preprocessor(Preprocess(size=(4, 4)))
        got = list(batches(seven, preprocessor, 3))
        assert [(piece.first, piece.count, len(piece.array)) for piece in got] == [(0, 3, 3), (3, 3, 3), (6, 1, 3)]
        rows = np.concatenate([piece.array[: piece.count] for piece in got])
        assert np.array_equal(rows, np.stack([preprocessor(seven.image(index))[0] for index in range(7)]))
        assert np.array_equal(got[2].array[1], got[2].array[0])
        assert len(got[2].geometries) == 1

    def test_a_picture_is_decoded_once_for_all_who_are_fed_it(self, seven, monkeypatch) -> None:
        decoded: list[int] = []
        image = type(seven).image
        monkeypatch.setattr(type(seven), "image", lambda self, index: decoded.append(index) or image(self, index))
        preprocessor = Preprocessor(Preprocess(size=(4, 4)))
        first = [batch.array.copy() for batch in batches(seven, preprocessor, 3)]
        again = list(batches(seven, Preprocessor(Preprocess(size=(4, 4))), 3))
        assert decoded == list(range(7))
        assert all(np.array_equal(one, other.array) for one, other in zip(first, again, strict=True))
        list(batches(seven, Preprocessor(Preprocess(size=(4, 4), resize="stretch")), 7))
        assert len(decoded) == 14  # made ready in another way

    def test_no_more_pictures_are_kept_than_fit(self) -> None:
        made: list[int] = []

        def make(number: int) -> tuple[np.ndarray, int]:
            made.append(number)
            return np.full(100, number, np.uint8), number

        kept = Kept(most=250)
        for _ in range(2):
            found = [kept.ready(number, "as is", lambda number=number: make(number))[1] for number in range(4)]
            assert found == [0, 1, 2, 3]
        assert made == [0, 1, 2, 3, 2, 3]
        assert kept.decoded(4, lambda: np.zeros(100, np.uint8)) is not kept.decoded(4, lambda: np.zeros(100, np.uint8))

    def test_a_picture_that_was_looked_at_is_not_decoded_again(self, seven, monkeypatch) -> None:
        decoded: list[int] = []
        image = type(seven._source).image
        monkeypatch.setattr(
            type(seven._source), "image", lambda self, index: decoded.append(index) or image(self, index)
        )
        looked = [seven.image(index).copy() for index in range(3)]
        # Closeness and scoring are fed the same pictures.
        spec = model(Preprocess(size=(4, 4)))
        rows = np.concatenate([sample.feeds["image"] for sample in samples(spec, seven, batch=1, seed=5, real=7)])
        first = np.concatenate([piece.array for piece in batches(seven, Preprocessor(spec.preprocess), 1)])
        assert np.array_equal(rows[:7], first)
        assert np.array_equal(first[:3], [Preprocessor(spec.preprocess)(image)[0] for image in looked])
        assert sorted(decoded) == list(range(7))

    def test_a_decoded_picture_leaves_its_room_to_the_one_made_of_it(self) -> None:
        kept, decoded = Kept(most=100), []

        def decode() -> np.ndarray:
            decoded.append(1)
            return np.zeros(100, np.uint8)

        assert kept.decoded(0, decode) is kept.decoded(0, decode)
        with pytest.raises(ValueError, match="read-only"):
            kept.decoded(0, decode)[0] = 1
        ready = kept.ready(0, "half", lambda: (kept.decoded(0, decode)[:50], None))
        assert kept.ready(0, "half", lambda: (np.ones(50, np.uint8), None)) is ready
        assert len(decoded) == 1

    def test_raw_pixels_for_aipp(self, seven) -> None:
        (piece,) = batches(seven, Preprocessor(Preprocess(size=(4, 4), color="BGR")), 7, raw=True)
        assert piece.array.dtype == np.uint8
        assert np.array_equal(piece.array, np.stack([seven.image(index) for index in range(7)]))

    def test_images_are_decoded_as_they_are_needed(self, seven) -> None:
        stream = batches(seven, Preprocessor(Preprocess(size=(5, 5))), 2)
        with pytest.raises(DataError, match="#0"):
            next(stream)


class TestSamples:
    def test_rows_do_not_depend_on_the_batch(self, seven) -> None:
        spec = model(Preprocess(size=(4, 4)))
        one = samples(spec, seven, batch=1, seed=5, real=3, random=2, zeros=1)
        four = samples(spec, seven, batch=4, seed=5, real=3, random=2, zeros=1)
        rows = {name: array for sample in one for name, array in zip(sample.names, sample.feeds["image"], strict=True)}
        assert list(rows) == [
            "real-0 (seven.npz[0])",
            "real-1 (seven.npz[2])",
            "real-2 (seven.npz[4])",
            "zeros",
            "random-0",
            "random-1",
        ]
        assert len(four) == 2
        for sample in four:
            assert sample.feeds["image"].shape == (4, 3, 4, 4)
            for name, array in zip(sample.names, sample.feeds["image"], strict=True):
                if name in rows:
                    assert np.array_equal(array, rows[name])
        # No row twice: an item taken for another must show.
        everything = np.concatenate([sample.feeds["image"] for sample in four]).reshape(8, -1)
        assert len(np.unique(everything, axis=0)) == 8
        assert one.digest != four.digest
        assert one.pixels == 4

    def test_dtypes_and_ranges(self) -> None:
        kinds = (
            Input(name="a", shape=(64,), range=(-2.0, 3.0)),
            Input(name="b", shape=(64,), dtype="int64", range=(2, 4)),
            Input(name="c", shape=(64,), dtype="bool"),
            Input(name="d", shape=(64,), dtype="float16"),
        )
        spec = Spec(name="m", folder=Path(), task="tensor", source=Source(checkpoint="x"), inputs=kinds)
        got = list(samples(spec, None, batch=2, seed=0, random=3, zeros=1))
        assert len(got) == 2
        assert {name: str(array.dtype) for name, array in got[0].feeds.items()} == {
            "a": "float32",
            "b": "int64",
            "c": "bool",
            "d": "float16",
        }
        random = got[1].feeds
        assert set(np.unique(random["b"])) == {2, 3, 4}
        assert -2 <= random["a"].min() < -1.5
        assert 2.5 < random["a"].max() <= 3

    def test_digest_needs_no_decoding(self, tmp_path: Path) -> None:
        folder = tmp_path / "calib" / "broken"
        folder.mkdir(parents=True)
        (folder / "dataset.toml").write_text('kind = "images"\nlabels = ""\n')
        (folder / "a.png").write_bytes(b"no picture")
        dataset = open_dataset("broken", calib_root=tmp_path / "calib")
        spec = model(Preprocess(size=(4, 4)))
        first = samples(spec, dataset, batch=1, seed=0)
        assert first.digest == samples(spec, dataset, batch=1, seed=0).digest
        changed = [samples(spec, dataset, batch=1, seed=1), samples(spec, None, batch=1, seed=0)]
        changed.append(samples(model(Preprocess(size=(4, 4), scale=2)), dataset, batch=1, seed=0))
        changed.append(samples(spec, dataset, batch=1, seed=0, random=5))
        assert len({first.digest, *(other.digest for other in changed)}) == 5


class TestPlausible:
    NORMAL = Preprocess(size=(4, 4), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))

    def test_what_is_right_is_not_doubted(self) -> None:
        images = np.random.default_rng(0).integers(0, 256, (4, 4, 4, 3), dtype=np.uint8)
        caffe = Preprocess(size=(4, 4), scale=1, color="BGR", mean=(104, 117, 123), std=(1, 1, 1))
        yolo = Preprocess(size=(4, 4))
        centred = Preprocess(size=(4, 4), mean=(0.5,) * 3, std=(0.5,) * 3)
        for spec in (self.NORMAL, caffe, yolo, centred):
            inputs = np.stack([Preprocessor(spec)(image)[0] for image in images])
            assert plausibility(spec, inputs) == []

    def test_grey_levels_and_unit_range_mixed_up(self) -> None:
        wrong = Preprocess(size=(4, 4), mean=(123.7, 116.3, 103.5), std=(58.4, 57.1, 57.4))
        assert [finding.rule for finding in plausibility(wrong)] == ["data.mean-in-grey-levels"]
        other = Preprocess(size=(4, 4), scale=1, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
        assert [finding.rule for finding in plausibility(other)] == ["data.mean-in-unit-range"]

    def test_divided_twice(self) -> None:
        inputs = np.random.default_rng(0).random((4, 3, 4, 4), dtype=np.float32) / 255
        assert [finding.rule for finding in plausibility(Preprocess(size=(4, 4)), inputs)] == ["data.nearly-constant"]


def test_importing_data_imports_no_pillow_torch_or_onnx() -> None:
    code = "import sys, pth2om.data, pth2om.compare, pth2om.accuracy, pth2om.latency, pth2om.roofline;"
    code += "print(sorted({'PIL', 'torch', 'onnx', 'onnxruntime', 'scipy', 'faster_coco_eval'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
