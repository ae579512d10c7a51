"""A reference that says nothing about the images proves nothing about a candidate."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pth2om.accuracy import agreement, drop, least, measure
from pth2om.accuracy.packed import pack
from pth2om.accuracy.reference import lead, lead_of_answers
from pth2om.data import open_dataset
from pth2om.spec import Postprocess
from tests.accuracy.test_measure_and_judge import PREPROCESS, Told, logits, numbered

COUNT = 240


def scored(tmp_path: Path, labels: np.ndarray, answers: np.ndarray, classes: int = 10) -> dict:
    dataset = numbered(tmp_path, len(labels), labels, classes)
    return measure(Told(answers), dataset, PREPROCESS, Postprocess(), batch=40)


def told(numbers: np.ndarray, classes: int = 10) -> np.ndarray:
    return np.eye(classes, dtype=np.float32)[numbers]


class TestClassification:
    LABELS = np.arange(COUNT) % 10

    @pytest.mark.parametrize("kind", ["constant", "shifted", "chance"])
    def test_useless_references_are_not_judged(self, tmp_path: Path, kind: str) -> None:
        answers = {
            "constant": np.zeros((COUNT, 10), np.float32),
            "shifted": told(np.roll(self.LABELS, 1)),
            "chance": np.random.default_rng(3).random((COUNT, 10)).astype(np.float32),
        }[kind]
        measured = scored(tmp_path, self.LABELS, answers)
        own = least(measured, None, metric="top1")
        assert own.verdict == "failed"
        assert own.message.key == "accuracy.no-better-than-constant"
        for gate in (1.0, 5.0):
            judged = drop(measured, measured, gate)
            assert (judged.verdict, judged.message.key) == ("not_measured", "accuracy.blind-constant")
            assert all(text in judged.message.render("en") for text in ("10.00", f"{gate:g}"))

    def test_a_good_reference_says_how_far_it_is_ahead(self, tmp_path: Path) -> None:
        measured = scored(tmp_path, self.LABELS, told(self.LABELS))
        own = least(measured, None, metric="top1")
        assert (own.verdict, own.limit) == ("shown", None)
        assert own.details["lead"]["lead"] == pytest.approx(90)
        assert own.details["lead"]["low"] > 80
        assert drop(measured, measured, 2.0).verdict == "passed"

    def test_what_is_lost_for_certain_fails_all_the_same(self, tmp_path: Path) -> None:
        labels = np.where(np.arange(COUNT) % 40, 0, 1)  # one in forty is of another class
        before = scored(tmp_path, labels, told(labels * 0))
        after = scored(tmp_path, labels, told(labels * 0 + 3))
        assert drop(before, after, 1.0).verdict == "failed"
        assert drop(before, before, 2.0).verdict == "not_measured"

    def test_labels_of_one_class(self, tmp_path: Path) -> None:
        measured = scored(tmp_path, self.LABELS * 0, told(self.LABELS * 0))
        own, judged = least(measured, None, metric="top1"), drop(measured, measured, 2.0)
        assert (own.verdict, own.message.key) == ("inconclusive", "accuracy.no-better-than-one-class")
        assert (judged.verdict, judged.message.key) == ("not_measured", "accuracy.blind-one-class")
        assert judged.details["only_class"] == 0

    def test_one_image_many_times_is_one_image(self, tmp_path: Path) -> None:
        folder = tmp_path / "calib" / "same"
        folder.mkdir(parents=True)
        (folder / "dataset.toml").write_text('kind = "npz"\nclasses = 10\n')
        pixels = np.zeros((600, 4, 4, 3), np.uint8)
        np.savez(folder / "same.npz", x=pixels, y=np.zeros(600, int))
        dataset = open_dataset("same", calib_root=tmp_path / "calib")
        measured = measure(Told(told(np.zeros(1, int))), dataset, PREPROCESS, Postprocess(), batch=100)
        judged = drop(measured, measured, 2.0)
        assert judged.verdict == "not_measured"
        assert judged.details["distinct_images"] == 1

    def test_equal_images_count_once_in_the_bounds(self, tmp_path: Path) -> None:
        folder = tmp_path / "calib" / "twice"
        folder.mkdir(parents=True)
        (folder / "dataset.toml").write_text('kind = "npz"\nclasses = 10\n')
        pixels = np.zeros((COUNT, 4, 4, 3), np.uint8)
        pixels[:, 0, 0, 0] = np.arange(COUNT) // 2
        labels = (np.arange(COUNT) // 2) % 10
        np.savez(folder / "twice.npz", x=pixels, y=labels)
        dataset = open_dataset("twice", calib_root=tmp_path / "calib")
        measured = measure(Told(told(np.arange(COUNT) % 10)), dataset, PREPROCESS, Postprocess(), batch=7)
        judged = drop(measured, measured, 1.0)
        assert judged.details["distinct_images"] == COUNT // 2
        assert judged.details["bounds"][1] == pytest.approx(100 * (1 - 0.05 ** (2 / COUNT)))
        assert least(measured, None, metric="top1").message.key == "accuracy.repeated-images"

    @given(st.integers(0, 1000), st.integers(1, 4), st.integers(30, 60))
    @settings(max_examples=10, deadline=None)
    def test_no_constant_answer_is_ahead(self, seed: int, classes: int, images: int) -> None:
        stream = np.random.default_rng(seed)
        labels = stream.integers(0, classes, images)
        for answer in range(classes):
            measured = {
                "kind": "classification",
                "images": images,
                "labels": pack(labels.astype(np.int32)),
                "top": pack(np.full((images, 1), answer, np.int32)),
            }
            assert lead(measured, "top1").low <= lead(measured, "top1").lead <= 0

    def test_agreement_with_a_constant_answer(self, tmp_path: Path) -> None:
        dataset = numbered(tmp_path, COUNT, None)
        constant = measure(Told(logits(self.LABELS * 0)), dataset, PREPROCESS, Postprocess(), batch=40)
        judged = agreement(constant, constant, 2.0)
        assert (judged.verdict, judged.message.key) == ("not_measured", "accuracy.blind-agreement-constant")
        assert lead_of_answers(self.LABELS).low > 80


class TestDetection:
    POST = Postprocess(decoder="yolov6")

    def squares(self, tmp_path: Path, count: int = 120, kinds: int = 3) -> object:
        folder = tmp_path / "calib" / "toy"
        folder.mkdir(parents=True)
        (folder / "dataset.toml").write_text('kind = "coco"\n')
        images, annotations = [], []
        for number in range(count):
            Image.new("RGB", (4, 4), (number, 0, 0)).save(folder / f"{number:03d}.png")
            images.append({"id": number, "file_name": f"{number:03d}.png"})
            annotations.append({"image_id": number, "category_id": number % kinds, "bbox": [1, 1, 2, 2], "area": 4})
        categories = [{"id": number, "name": str(number)} for number in range(3)]
        text = json.dumps({"images": images, "annotations": annotations, "categories": categories})
        (folder / "instances.json").write_text(text)
        return open_dataset("toy", calib_root=tmp_path / "calib")

    @pytest.mark.parametrize("kind", ["nothing", "other class", "constant"])
    def test_a_detector_that_finds_nothing_is_not_judged(self, tmp_path: Path, kind: str) -> None:
        rows = np.zeros((120, 1, 8), np.float32)
        rows[:, 0] = [2, 2, 2, 2, 1, 0, 0, 0]
        if kind == "other class":
            rows[np.arange(120), 0, 5 + (np.arange(120) + 1) % 3] = 0.9
        if kind == "constant":
            rows[:, 0, 5:] = [0.9, 0.8, 0.7]
        measured = measure(Told(rows), self.squares(tmp_path), PREPROCESS, self.POST, batch=16)
        own, judged = least(measured, None, metric="mAP50-95"), drop(measured, measured, 3.0)
        assert (own.verdict, own.message.key) == ("failed", "accuracy.no-better-than-other-images")
        assert (judged.verdict, judged.message.key) == ("not_measured", "accuracy.blind-other-images")
        if kind == "nothing":
            assert agreement(measured, measured, 5.0).verdict == "not_measured"

    def test_the_same_object_everywhere_is_the_datas_fault(self, tmp_path: Path) -> None:
        dataset = self.squares(tmp_path, kinds=1)
        rows = np.zeros((120, 1, 8), np.float32)
        rows[:, 0] = [2, 2, 2, 2, 1, 0.9, 0, 0]
        measured = measure(Told(rows), dataset, PREPROCESS, self.POST, batch=16)
        own, judged = least(measured, None, metric="mAP50-95"), drop(measured, measured, 3.0)
        assert (own.verdict, own.message.key) == ("inconclusive", "accuracy.no-better-than-same-objects")
        assert (judged.verdict, judged.message.key) == ("not_measured", "accuracy.blind-same-objects")

    def test_few_images_pass_nothing(self, tmp_path: Path) -> None:
        rows = np.zeros((60, 1, 8), np.float32)
        rows[:, 0] = [2, 2, 2, 2, 1, 0, 0, 0]
        rows[np.arange(60), 0, 5 + np.arange(60) % 3] = 0.9
        measured = measure(Told(rows), self.squares(tmp_path, 60), PREPROCESS, self.POST, batch=16)
        judged = drop(measured, measured, 8.0)
        assert (judged.verdict, judged.message.key) == ("inconclusive", "accuracy.few-images")
        assert judged.details["images_needed"] >= 100


def test_masks_of_one_class_or_anywhere_are_not_judged(tmp_path: Path) -> None:
    folder = tmp_path / "calib" / "cells"
    folder.mkdir(parents=True)
    (folder / "dataset.toml").write_text('kind = "npz"\nclasses = 2\n')
    stream = np.random.default_rng(0)
    truth = (stream.random((60, 4, 4)) < 0.5).astype(np.uint8)
    pixels = np.zeros((60, 4, 4, 3), np.uint8)
    pixels[:, 0, 0, 0] = np.arange(60)
    np.savez(folder / "cells.npz", x=pixels, y=truth)
    dataset = open_dataset("cells", calib_root=tmp_path / "calib")
    post = Postprocess(decoder="argmax")
    for answers in (np.ones_like(truth), np.zeros_like(truth), (stream.random(truth.shape) < 0.5).astype(np.uint8)):
        measured = measure(Told(answers.astype(np.int64)), dataset, PREPROCESS, post, batch=10)
        assert least(measured, None, metric="dice").verdict == "failed"
        assert drop(measured, measured, 5.0).verdict == "not_measured"
