"""Scoring a session over a dataset, and judging what it lost."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from pth2om.accuracy import agreement, drop, judge, least, measure, reproduces
from pth2om.accuracy.detection import decode, decode_each, suppress
from pth2om.accuracy.dice import image_dice, segmentation_metrics
from pth2om.accuracy.judging import difference
from pth2om.accuracy.packed import pack, pack_names, unpack, unpack_names
from pth2om.data import Labelled, Preprocessor, open_dataset
from pth2om.data.preprocess import Geometry
from pth2om.errors import DataError
from pth2om.session import Provenance, TensorSpec
from pth2om.spec import Postprocess, Preprocess

PREPROCESS = Preprocessor(Preprocess(size=(4, 4), scale=1))


class Told:
    """A session that looks its answers up by the first pixel of each image."""

    def __init__(self, answers: np.ndarray) -> None:
        self.answers = answers
        self.inputs = (TensorSpec("image", (None, 3, 4, 4), np.dtype("float32")),)
        self.outputs = (TensorSpec("out", (None,), np.dtype("float32")),)
        self.digest, self.provenance = "0" * 64, Provenance("test", "0", "host")
        self.batches: list[int] = []

    def run(self, feeds):
        image = feeds["image"]
        self.batches.append(len(image))
        return {"out": self.answers[image[:, 0, 0, 0].astype(int)]}

    def close(self) -> None: ...
    def __enter__(self):
        return self

    def __exit__(self, *_) -> None: ...


def numbered(tmp_path: Path, count: int, labels: np.ndarray | None, classes: int = 3) -> Labelled:
    """Images whose first pixel is their number."""
    folder = tmp_path / "calib" / "numbered"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dataset.toml").write_text(f'kind = "npz"\nclasses = {classes}\n')
    pixels = np.zeros((count, 4, 4, 3), np.uint8)
    pixels[:, 0, 0, 0] = np.arange(count)
    arrays = {"x": pixels} if labels is None else {"x": pixels, "y": labels}
    np.savez(folder / "numbered.npz", **arrays)
    return open_dataset("numbered", calib_root=tmp_path / "calib")


def logits(predicted: np.ndarray, classes: int = 3) -> np.ndarray:
    return np.eye(classes, dtype=np.float32)[predicted]


@given(
    hnp.arrays(
        st.sampled_from([np.int8, np.uint16, np.float32, np.float64, np.bool_]),
        hnp.array_shapes(min_dims=0, max_dims=3, min_side=0),
    )
)
def test_packing_keeps_every_bit(array: np.ndarray) -> None:
    again = unpack(json.loads(json.dumps(pack(array))))
    assert again.dtype == array.dtype
    assert again.shape == array.shape
    assert again.tobytes() == array.tobytes()


@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1)))
def test_packing_names(names: list[str]) -> None:
    assert unpack_names(pack_names(names)) == names


@pytest.mark.parametrize("change", [{"shape": [1 << 40]}, {"dtype": "|O"}, {"shape": [3]}])
def test_packed_arrays_that_lie_are_refused(change: dict) -> None:
    with pytest.raises(ValueError, match=r"packed|bytes"):
        unpack({**pack(np.zeros(4)), **change})


class TestClassification:
    LABELS = np.array([0, 1, 2, 0, 1, 2, 0])

    def score(self, tmp_path: Path, predicted: np.ndarray, batch: int = 3, labels=LABELS) -> dict:
        dataset = numbered(tmp_path, len(predicted), labels)
        return measure(Told(logits(predicted)), dataset, PREPROCESS, Postprocess(), batch=batch)

    @pytest.mark.parametrize("batch", [1, 2, 3, 7, 10])
    def test_padding_rows_count_nowhere(self, tmp_path: Path, batch: int) -> None:
        predicted = np.array([0, 1, 2, 1, 1, 2, 1])
        measured = self.score(tmp_path, predicted, batch)
        assert measured["images"] == 7
        assert measured["metrics"] == {"top1": pytest.approx(500 / 7)}
        assert unpack(measured["top"])[:, 0].tolist() == predicted.tolist()

    def test_every_batch_is_full(self, tmp_path: Path) -> None:
        session = Told(logits(self.LABELS))
        measure(session, numbered(tmp_path, 7, self.LABELS), PREPROCESS, Postprocess(), batch=4)
        assert session.batches == [4, 4]

    def test_nan_predicts_nothing(self, tmp_path: Path) -> None:
        answers = logits(np.zeros(7, int))
        answers[3] = np.nan
        measured = measure(Told(answers), numbered(tmp_path, 7, self.LABELS * 0), PREPROCESS, Postprocess(), batch=2)
        assert measured["unreadable"] == 1
        assert measured["metrics"]["top1"] == pytest.approx(600 / 7)

    def test_top5(self, tmp_path: Path) -> None:
        answers = np.tile(np.arange(8, 0, -1, dtype=np.float32), (6, 1))
        dataset = numbered(tmp_path, 6, np.array([0, 1, 4, 5, 6, 0]), classes=8)
        measured = measure(Told(answers), dataset, PREPROCESS, Postprocess(), batch=4)
        assert measured["metrics"] == {"top1": pytest.approx(200 / 6), "top5": pytest.approx(400 / 6)}

    def test_too_few_outputs_are_said(self, tmp_path: Path) -> None:
        with pytest.raises(DataError) as caught:
            measure(Told(np.zeros((7, 2), np.float32)), numbered(tmp_path, 7, self.LABELS), PREPROCESS, Postprocess())
        assert caught.value.message.key == "accuracy.too-few-classes"
        with pytest.raises(DataError) as caught:
            measure(
                Told(logits(self.LABELS)), numbered(tmp_path, 7, self.LABELS), PREPROCESS, Postprocess(decoder="none")
            )
        assert caught.value.message.key == "accuracy.no-decoder"

    @pytest.mark.parametrize("dtype", ["uint8", "float16", "int32"])
    def test_inputs_of_other_types(self, tmp_path: Path, dtype: str) -> None:
        class Typed(Told):
            def run(self, feeds):
                assert str(feeds["image"].dtype) == dtype
                first = feeds["image"][:, 0, 0, 0].astype(int)
                return {"out": self.answers[first]}

        session = Typed(logits(self.LABELS))
        session.inputs = (TensorSpec("image", (None,), np.dtype(dtype)),)
        dataset = numbered(tmp_path, 7, self.LABELS)
        if dtype == "int32":
            with pytest.raises(DataError):
                measure(session, dataset, PREPROCESS, Postprocess())
        else:
            assert measure(session, dataset, PREPROCESS, Postprocess())["metrics"]["top1"] == 100

    def test_close_calls_are_listed(self, tmp_path: Path) -> None:
        answers = logits(self.LABELS)
        answers[4] = [0.5, 0.5005, 0]
        measured = measure(Told(answers), numbered(tmp_path, 7, self.LABELS), PREPROCESS, Postprocess())
        judged = reproduces(measured, 100.0, metric="top1")
        assert judged.verdict == "passed"
        assert judged.details["close"] == ["numbered.npz[4]"]

    def test_the_known_figure(self, tmp_path: Path) -> None:
        measured = self.score(tmp_path, np.array([0, 1, 2, 1, 1, 2, 0]))
        assert reproduces(measured, 85.71, metric="top1").verdict == "passed"
        assert reproduces(measured, 85.73, metric="top1").verdict == "failed"
        assert reproduces(measured, 85.0, 1.0, metric="top1").verdict == "passed"
        close = reproduces(measured, 85.54, 0.17, metric="top1")  # 85.714 is 0.174 away, and 0.17 in two decimals
        assert (close.verdict, close.measured, str(close.limit)) == ("passed", 0.17, "<= 0.17")
        other = reproduces(measured, 10.0, metric="top1", exact_files=False)
        assert other.verdict == "not_measured"
        assert least(measured, 90, metric="top1").verdict == "failed"
        few = least(measured, None, metric="top1")  # 6 of 7 right, and 3 of 7 by always answering 1
        assert (few.verdict, few.limit.value) == ("inconclusive", pytest.approx(300 / 7))
        with pytest.raises(DataError):
            least(measured, 1, metric="mAP50")


class TestDrop:
    def pair(self, tmp_path: Path, count: int, lost: int, gained: int) -> tuple[dict, dict]:
        labels = np.arange(count) % 3
        before, after = labels.copy(), labels.copy()
        after[:lost] = (labels[:lost] + 1) % 3
        before[lost : lost + gained] = (labels[lost : lost + gained] + 2) % 3
        dataset = numbered(tmp_path, count, labels)
        return tuple(
            measure(Told(logits(part)), dataset, PREPROCESS, Postprocess(), batch=50) for part in (before, after)
        )

    @pytest.mark.parametrize(
        ("lost", "gained", "gate", "verdict"),
        [(0, 0, 1.5, "passed"), (0, 0, 1.0, "inconclusive"), (30, 0, 1.0, "failed"), (3, 3, 1.0, "inconclusive")],
    )
    def test_verdicts(self, tmp_path: Path, lost: int, gained: int, gate: float, verdict: str) -> None:
        reference, candidate = self.pair(tmp_path, 250, lost, gained)
        judged = drop(reference, candidate, gate)
        assert judged.verdict == verdict
        assert judged.check == "top1/drop"
        assert judged.measured == pytest.approx(100 * (lost - gained) / 250)
        assert [entry["file"] for entry in judged.details["lost"]] == [f"numbered.npz[{k}]" for k in range(lost)]
        assert len(judged.details["gained"]) == gained
        if verdict == "inconclusive":
            assert judged.details["images_needed"] > 250
            assert str(judged.details["images_needed"]) in judged.message.render("en")
            assert str(judged.details["images_needed"]) in judged.message.render("zh")
        json.dumps(judged.details)

    def test_differences_can_be_kept(self, tmp_path: Path) -> None:
        reference, candidate = self.pair(tmp_path, 250, 4, 1)
        kept = json.loads(json.dumps(difference(reference, candidate)))
        assert judge(kept, 5.0) == drop(reference, candidate, 5.0)

    def test_only_the_same_images_are_compared(self, tmp_path: Path) -> None:
        reference, _ = self.pair(tmp_path / "a", 250, 0, 0)
        _, candidate = self.pair(tmp_path / "b", 249, 0, 0)
        with pytest.raises(DataError) as caught:
            drop(reference, candidate, 1.0)
        assert caught.value.message.key == "accuracy.other-images"

    def test_numbers_that_are_none_are_counted_per_image(self, tmp_path: Path) -> None:
        dataset = numbered(tmp_path, 5, np.zeros(5, int))
        answers = np.full((5, 3), 3e38, np.float32)  # their sum is infinite
        answers[1, 2], answers[4] = np.nan, [np.inf, -np.inf, 0]
        found = measure(Told(answers), dataset, PREPROCESS, Postprocess(), batch=2)
        assert unpack(found["nonfinite"]).tolist() == [0, 1, 0, 0, 2]

    def test_agreement_without_labels(self, tmp_path: Path) -> None:
        dataset = numbered(tmp_path, 200, None)
        assert not dataset.has_labels
        first = np.arange(200) % 3
        second = first.copy()
        second[:20] = (second[:20] + 1) % 3
        runs = [measure(Told(logits(part)), dataset, PREPROCESS, Postprocess(), batch=20) for part in (first, second)]
        assert runs[0]["metrics"] == {}
        same, other = agreement(runs[0], runs[0], 2.0), agreement(*runs, 2.0)
        assert (same.verdict, same.measured) == ("passed", 100.0)
        assert same.details["bounds"][0] == pytest.approx(100 * 0.05 ** (1 / 200))
        assert same.interval[0] == pytest.approx(100 * 0.025 ** (1 / 200))
        assert (other.verdict, other.measured) == ("failed", 90.0)
        assert other.details["differing"] == [f"numbered.npz[{k}]" for k in range(20)]
        assert agreement(runs[0], runs[0], 1.0).verdict == "inconclusive"


# ---------------------------------------------------------------------------------------------------- detection

PLAIN = Geometry(320, 320, 1, 1, 0, 0)


def greedy(boxes: np.ndarray, scores: np.ndarray, classes: np.ndarray, threshold: float) -> list[int]:
    """Textbook NMS, one pair at a time."""
    kept: list[int] = []
    for index in sorted(range(len(scores)), key=lambda k: -scores[k]):
        for other in kept:
            if classes[other] != classes[index]:
                continue
            a, b = boxes[index], boxes[other]
            w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
            both = max(w, 0) * max(h, 0)
            union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both
            if union > 0 and both / union > threshold:
                break
        else:
            kept.append(index)
    return kept


@given(st.integers(0, 10_000), st.integers(0, 40), st.floats(0.1, 0.9))
def test_nms_against_the_textbook(seed: int, count: int, threshold: float) -> None:
    stream = np.random.default_rng(seed)
    corners = stream.integers(0, 12, (count, 2)).astype(float)
    boxes = np.concatenate([corners, corners + stream.integers(0, 9, (count, 2))], axis=1)
    scores, classes = stream.integers(0, 8, count) / 8, stream.integers(0, 3, count)
    expected = greedy(boxes, scores, classes, threshold)
    assert suppress(boxes, scores, classes, threshold).tolist() == expected
    assert suppress(boxes, scores, classes, threshold, 3).tolist() == expected[:3]
    # Of several images, each alone.
    image = np.sort(stream.integers(0, 4, count))
    apart = [np.flatnonzero(image == number) for number in range(4)]
    alone = [part[greedy(boxes[part], scores[part], classes[part], threshold)] for part in apart]
    assert suppress(boxes, scores, classes, threshold, None, image).tolist() == np.concatenate(alone).tolist()
    few = np.concatenate([part[:2] for part in alone])
    assert suppress(boxes, scores, classes, threshold, 2, image).tolist() == few.tolist()


class TestDecode:
    def test_rows(self) -> None:
        rows = np.array([[10, 20, 4, 6, 0.5, 0.9, 0.05], [10, 20, 4, 6, 1, 0.03, 0.2]], np.float32)
        found = decode(rows, Postprocess(decoder="yolov6"), Geometry(100, 100, 2, 2, 4, 0))
        assert found.classes.tolist() == [0, 1]
        assert found.scores == pytest.approx([0.45, 0.2])
        assert found.boxes[0].tolist() == [2, 8.5, 4, 11.5]

    @given(st.integers(0, 10_000), st.integers(1, 5), st.integers(1, 60), st.integers(1, 30))
    @settings(max_examples=50, deadline=None)
    def test_several_images_at_once_are_each_decoded_alone(self, seed: int, images: int, rows: int, most: int) -> None:
        stream = np.random.default_rng(seed)
        outputs = stream.uniform(0, 40, (images, rows, 8)).astype(np.float32)
        outputs[..., 4:] = np.round(stream.random((images, rows, 4)), 1)
        outputs[stream.integers(images), stream.integers(rows), stream.integers(4)] = np.nan
        places = [Geometry(100, 100, 1 + number, 2, number, 0) for number in range(images)]
        how = Postprocess(decoder="yolov6", score_threshold=0.2, iou_threshold=0.4, max_detections=most)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("pth2om.accuracy.detection.MOST_CANDIDATES", 40)
            together = decode_each(outputs, how, places)
            alone = [decode(output, how, place) for output, place in zip(outputs, places, strict=True)]
        for one, other in zip(together, alone, strict=True):
            assert all(np.array_equal(getattr(one, name), getattr(other, name)) for name in vars(one))

    def test_nan_and_infinite_rows_are_left_out(self) -> None:
        rows = np.array(
            [[10, 20, 4, 6, 1, 0.9], [np.nan, 20, 4, 6, 1, 0.9], [1, 1, 1, np.inf, 1, 0.5], [1] * 5 + [np.nan]]
        )
        assert len(decode(rows.astype(np.float32), Postprocess(), PLAIN).scores) == 1

    def test_other_forms_are_refused(self) -> None:
        with pytest.raises(DataError):
            decode(np.zeros((85, 4), np.float32), Postprocess(), PLAIN)

    def test_at_most_so_many(self) -> None:
        stream = np.random.default_rng(0)
        rows = np.concatenate([stream.uniform(0, 300, (500, 2)), np.full((500, 3), 1), stream.random((500, 1))], 1)
        found = decode(rows.astype(np.float32), Postprocess(max_detections=7), PLAIN)
        assert len(found.scores) == 7
        assert found.scores[0] == np.float32(rows[:, 5].max())
        assert np.all(np.diff(found.scores) <= 0)


@pytest.fixture
def squares(tmp_path: Path) -> Labelled:
    folder = tmp_path / "calib" / "squares"
    folder.mkdir(parents=True)
    (folder / "dataset.toml").write_text('kind = "coco"\n')
    images, annotations = [], []
    for number in range(120):
        Image.new("RGB", (4, 4), (number, 0, 0)).save(folder / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png"})
        annotations.append({"image_id": number, "category_id": number % 3, "bbox": [1, 1, 2, 2], "area": 4})
    categories = [{"id": number, "name": f"c{number}"} for number in range(3)]
    text = json.dumps({"images": images, "annotations": annotations, "categories": categories})
    (folder / "instances.json").write_text(text)
    return open_dataset("squares", calib_root=tmp_path / "calib")


def boxes_of(count: int = 120, shift: float = 0.0, lost: int = 0) -> np.ndarray:
    rows = np.zeros((count, 1, 8), np.float32)
    rows[:, 0] = [2 + shift, 2, 2, 2, 1, 0, 0, 0]
    rows[np.arange(count), 0, 5 + np.arange(count) % 3] = 0.9
    rows[:lost, 0, 5:] = 0
    return rows


class TestDetection:
    POST = Postprocess(decoder="yolov6")

    def score(self, squares: Labelled, rows: np.ndarray) -> dict:
        return json.loads(json.dumps(measure(Told(rows), squares, PREPROCESS, self.POST, batch=16)))

    def test_outputs_may_have_other_numbers_of_rows(self, squares: Labelled, monkeypatch: pytest.MonkeyPatch) -> None:
        class Growing(Told):
            def run(self, feeds):
                out = super().run(feeds)["out"]
                return {"out": np.concatenate([out, np.zeros((len(out), len(self.batches) % 3, 8), np.float32)], 1)}

        expected = self.score(squares, boxes_of(lost=7))
        for at_once in (1, 1 << 18):
            monkeypatch.setattr("pth2om.accuracy.measuring._DECODED_AT_ONCE", at_once)
            grown = measure(Growing(boxes_of(lost=7)), squares, PREPROCESS, self.POST, batch=16)
            assert json.loads(json.dumps(grown)) == expected

    def test_who_takes_pixels_is_fed_pixels(self, squares: Labelled) -> None:
        class OfPixels(Told):
            takes_pixels = True

            def run(self, feeds):
                assert feeds["image"].dtype == np.uint8
                return {"out": self.answers[feeds["image"][:, 0, 0, 0].astype(int)]}

        values = measure(Told(boxes_of(lost=7)), squares, PREPROCESS, self.POST, batch=16)
        assert measure(OfPixels(boxes_of(lost=7)), squares, PREPROCESS, self.POST, batch=16) == values

    def test_figures_and_drop(self, squares: Labelled) -> None:
        right, half = self.score(squares, boxes_of()), self.score(squares, boxes_of(lost=60))
        assert right["metrics"]["mAP50-95"] == pytest.approx(100)
        assert half["metrics"]["mAP50-95"] == pytest.approx(100 * 51 / 101)
        judged = drop(right, half, 1.0)
        assert judged.verdict == "failed"
        assert judged.check == "mAP50-95/drop"
        assert len(judged.details["changed"]) == 50  # of 60: the list is cut off
        assert {entry["lost"] for entry in judged.details["changed"]} == {1}
        assert drop(right, half, 1.0) == judged  # the same seed, the same interval

    def test_equal_results_are_as_sure_as_so_many_images_can_be(self, squares: Labelled) -> None:
        right = self.score(squares, boxes_of())
        judged = drop(right, right, 1.0)
        assert judged.verdict == "inconclusive"
        assert judged.details["bounds"][1] == judged.details["floor"] == pytest.approx(100 * (1 - 0.05 ** (1 / 120)))
        assert judged.interval[1] == pytest.approx(100 * (1 - 0.025 ** (1 / 120)))
        assert judged.details["images_needed"] >= 299
        passed = drop(right, right, 8.0)
        assert passed.verdict == "passed"
        assert passed.message.key == "accuracy.kept-floor"  # and says that fewer images would leave more open

    def test_mAP50_on_its_own(self, squares: Labelled) -> None:  # noqa: N802 - the figure's name
        right, moved = self.score(squares, boxes_of()), self.score(squares, boxes_of(shift=0.5))
        assert drop(right, moved, 8.0, metric="mAP50").verdict == "passed"
        assert drop(right, moved, 8.0).verdict == "failed"

    def test_agreement_of_boxes(self, squares: Labelled) -> None:
        right, half = self.score(squares, boxes_of()), self.score(squares, boxes_of(lost=60))
        assert agreement(right, right, 8.0).verdict == "passed"
        judged = agreement(right, half, 8.0)
        assert judged.measured == pytest.approx(100 * 2 * 60 / 180)
        assert judged.verdict == "failed"


class TestSegmentation:
    def test_dice_against_the_formula(self, tmp_path: Path) -> None:
        folder = tmp_path / "calib" / "cells"
        folder.mkdir(parents=True)
        (folder / "dataset.toml").write_text('kind = "npz"\nclasses = 3\n')
        stream = np.random.default_rng(0)
        truth = stream.integers(0, 3, (5, 4, 4))
        truth[2] = 0
        pixels = np.zeros((5, 4, 4, 3), np.uint8)
        pixels[:, 0, 0, 0] = np.arange(5)
        np.savez(folder / "cells.npz", x=pixels, y=truth)
        dataset = open_dataset("cells", calib_root=tmp_path / "calib")
        predicted = np.where(stream.random((5, 4, 4)) < 0.7, truth, stream.integers(0, 3, (5, 4, 4)))
        predicted[2] = 0
        scores = np.moveaxis(np.eye(3, dtype=np.float32)[predicted], -1, 1)
        post = Postprocess(decoder="argmax")
        by_scores = measure(Told(scores), dataset, PREPROCESS, post, batch=2)
        by_number = measure(Told(predicted), dataset, PREPROCESS, post, batch=2)
        assert by_scores["metrics"] == by_number["metrics"]
        dice = []
        for mask, got in zip(truth, predicted, strict=True):
            values = [
                2 * ((mask == k) & (got == k)).sum() / ((mask == k).sum() + (got == k).sum())
                for k in (1, 2)
                if (mask == k).any() or (got == k).any()
            ]
            dice.append(np.mean(values) if values else 1.0)
        assert by_scores["metrics"]["dice"] == pytest.approx(100 * np.mean(dice))
        union = [((truth == k) | (predicted == k)).sum() for k in range(3)]
        both = [((truth == k) & (predicted == k)).sum() for k in range(3)]
        assert by_scores["metrics"]["mIoU"] == pytest.approx(100 * np.mean(np.divide(both, union)))
        judged = drop(by_scores, by_number, 60.0)
        assert judged.check == "dice/drop"
        # Five images leave 45 points open; and a mask of one class is not 60 points worse.
        assert judged.details["bounds"][1] == pytest.approx(100 * (1 - 0.05 ** (1 / 5)))
        assert judged.verdict == "not_measured"

    def test_empty_masks(self) -> None:
        counts = np.zeros((2, 2, 3), np.int64)
        counts[:, 0] = 16
        assert image_dice(counts).tolist() == [1, 1]
        assert segmentation_metrics(counts) == {"dice": 100.0, "mIoU": 100.0}


# ---------------------------------------------------------------------------------------------------- real images


@pytest.fixture(scope="module")
def yolo(repository: Path, data_root: Path) -> tuple:
    """YOLOv6Lite-S, its dataset, and its output on every image."""
    import importlib.util

    import torch

    from pth2om.data import batches
    from pth2om.spec import load

    folder = repository / "models" / "yolov6lite"
    if not (folder / "net.py").is_file():
        pytest.skip("models/yolov6lite is absent")
    spec = load(folder)
    source = importlib.util.spec_from_file_location("net_of_yolov6lite", folder / "net.py")
    module = importlib.util.module_from_spec(source)
    source.loader.exec_module(module)
    net = module.build(80).eval()
    net.load_state_dict(torch.load(data_root / "weights" / "yolov6lite_s.pth", weights_only=True))
    dataset = open_dataset("coco141", calib_root=repository / "calib", data_roots=[data_root])
    pieces = list(batches(dataset, Preprocessor(spec.preprocess), 16))
    # One thread: on a busy machine two wait for each other most of the time.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.no_grad():
        outputs = [net(torch.from_numpy(piece.array)).numpy() for piece in pieces]
    torch.set_num_threads(threads)
    return spec, dataset, pieces, outputs


class Replayed(Told):
    def __init__(self, outputs: list[np.ndarray]) -> None:
        super().__init__(np.zeros(0))
        self.rest = iter(outputs)

    def run(self, feeds):
        return {"out": next(self.rest)}


def test_yolov6lite_reproduces_its_figure_and_boxes_moved_4_px_fail(yolo) -> None:
    spec, dataset, pieces, outputs = yolo

    def score(changed: list[np.ndarray]) -> dict:
        return measure(
            Replayed(changed),
            dataset,
            Preprocessor(spec.preprocess),
            spec.postprocess,
            batch=16,
            source=lambda: iter(pieces),
        )

    reference = score(outputs)
    entry = spec.datasets[0]
    assert reference["metrics"]["mAP50"] == pytest.approx(38.84, abs=0.05)
    judged = reproduces(reference, entry.expected, entry.tolerance, metric="mAP50-95", exact_files=dataset.exact)
    assert (judged.verdict, round(reference["metrics"]["mAP50-95"], 1)) == ("passed", 26.5)
    moved = [out.copy() for out in outputs]
    for out in moved:
        out[..., 0] += 4
    assert reproduces(score(moved), entry.expected, entry.tolerance, metric="mAP50-95").verdict == "failed"
    swapped = [np.concatenate([out[..., :5], np.roll(out[..., 5:], 1, -1)], -1) for out in outputs]
    assert drop(reference, score(swapped), 2.5).verdict == "failed"
    assert drop(reference, reference, 2.5).verdict == "passed"
