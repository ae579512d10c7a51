"""Manifests, label files, COCO, npz, masks: read right, or refused in a sentence."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pth2om.data import DatasetAbsent, load_manifest, open_dataset
from pth2om.errors import DataError, Pth2omError, SpecError


def manifest(calib: Path, name: str, text: str) -> Path:
    folder = calib / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dataset.toml").write_text(text, encoding="utf-8")
    return folder


def picture(path: Path, value: int = 10, size: tuple[int, int] = (4, 4)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, value, value)).save(path)


@pytest.fixture
def calib(tmp_path: Path) -> Path:
    return tmp_path / "calib"


def imagenet_like(calib: Path, labels: str, count: int = 3, extra: str = "") -> Path:
    folder = manifest(calib, "small", f'kind = "images"\nimages = "images"\nclasses = 5\n{extra}')
    for index in range(count):
        picture(folder / "images" / f"{index}.png", index)
    (folder / "val_label.txt").write_text(labels, encoding="utf-8")
    return folder


@pytest.mark.parametrize("name", ["a" * 5000, "b\\u0000c"])
@pytest.mark.parametrize("key", ["labels", "images", "names", "recipe", "file"])
def test_a_name_that_no_file_system_takes_is_a_sentence(calib: Path, name: str, key: str) -> None:
    kind = "npz" if key == "file" else "images"
    folder = manifest(calib, "odd", f'kind = "{kind}"\nclasses = 2\n{key} = "{name}"\n')
    picture(folder / "images" / "0.png")
    with pytest.raises(Pth2omError) as caught:
        open_dataset("odd", calib_root=calib)
    assert str(caught.value)


class TestImages:
    def test_file_and_class(self, calib: Path) -> None:
        imagenet_like(calib, "2.png 4\n0.png 1\n1.png 0\n")
        dataset = open_dataset("small", calib_root=calib)
        assert [dataset.file(i) for i in range(3)] == ["2.png", "0.png", "1.png"]
        assert dataset.labels.tolist() == [4, 1, 0]
        assert dataset.image(0)[0, 0].tolist() == [2, 2, 2]

    def test_classes_alone_in_the_order_of_the_files(self, calib: Path) -> None:
        imagenet_like(calib, "\ufeff3\n\n1\n2\n")
        assert open_dataset("small", calib_root=calib).labels.tolist() == [3, 1, 2]

    def test_comma_separated_names_and_classes_from_one(self, calib: Path) -> None:
        imagenet_like(calib, "0.png,1\n1.png,5\n2.png,3\n", extra="first_class = 1\n")
        assert open_dataset("small", calib_root=calib).labels.tolist() == [0, 4, 2]

    def test_wordnet_ids_and_names(self, calib: Path) -> None:
        folder = imagenet_like(calib, "0.png n00000002\n1.png cat\n2.png 1\n", extra='names = "words.txt"\n')
        (folder / "words.txt").write_text("n00000001 cat, kitty\nn00000002 dog\n", encoding="utf-8")
        dataset = open_dataset("small", calib_root=calib)
        assert dataset.names == ("cat", "dog")
        assert dataset.labels.tolist() == [1, 0, 1]

    @pytest.mark.parametrize(
        ("labels", "count", "key", "words"),
        [
            ("0\n1\n", 3, "data.label-count", ["2 labels", "3 images"]),
            ("0.png 0\n1.png 1\n", 3, "data.label-count", ["2 labels", "3 images"]),
            ("0.png 0\n1.png 1\n2.png 2\n9.png 1\n", 3, "data.images-missing", ["#3", "9.png"]),
            (f"0.png 0\n1.png 1\n{'9' * 5000}.png 2\n", 3, "data.images-missing", ["#2"]),
            ("0.png 0\n1.png 1\n9\0.png 2\n", 3, "data.images-missing", ["#2"]),
            ("0.png 0\n1.png 1\n0.png 2\n", 3, "data.duplicate", ["0.png", "#0", "#2"]),
            ("0.png 0\n1.png 5\n2.png 2\n", 3, "data.label-out-of-range", ["#1", "1.png", "Label 5", "0..4"]),
            ("0.png 0\n1.png -1\n2.png 2\n", 3, "data.label-out-of-range", ["Label -1"]),
            ("0.png 0\n1.png what\n2.png 2\n", 3, "data.label-unknown", [":2", "what"]),
            ("0.png 0\n1.png 1 2 3\n2.png 2\n", 3, "data.label-line", [":2"]),
            ("../../x.png 0\n1.png 1\n2.png 2\n", 3, "data.outside", ["x.png"]),
            ("", 0, "data.empty", []),
        ],
    )
    def test_bad_labels_are_said(self, calib: Path, labels: str, count: int, key: str, words: list[str]) -> None:
        folder = imagenet_like(calib, labels, count)
        (folder / "images").mkdir(exist_ok=True)
        with pytest.raises(DataError) as caught:
            open_dataset("small", calib_root=calib)
        assert caught.value.message.key == key
        for word in words:
            assert word in str(caught.value)

    def test_an_unreadable_image_is_named_with_number_and_file(self, calib: Path) -> None:
        folder = imagenet_like(calib, "0.png 0\n1.png 1\n2.png 2\n")
        (folder / "images" / "1.png").write_bytes(b"not a picture")
        dataset = open_dataset("small", calib_root=calib)
        with pytest.raises(DataError, match=r"1\.png #1"):
            dataset.image(1)

    def test_subset_takes_the_first_and_changes_the_digest(self, calib: Path) -> None:
        imagenet_like(calib, "0.png 0\n1.png 1\n2.png 2\n")
        whole = open_dataset("small", calib_root=calib)
        part = open_dataset("small", calib_root=calib, subset=2)
        assert (len(whole), len(part), part.whole) == (3, 2, False)
        assert part.labels.tolist() == [0, 1]
        assert whole.digest != part.digest
        with pytest.raises(IndexError):
            part.image(2)

    def test_the_digest_sees_bytes_labels_and_names(self, calib: Path) -> None:
        folder = imagenet_like(calib, "0.png 0\n1.png 1\n2.png 2\n")
        digests = [open_dataset("small", calib_root=calib).digest]
        assert open_dataset("small", calib_root=calib).digest == digests[0]
        (folder / "val_label.txt").write_text("0.png 0\n1.png 1\n2.png 3\n", encoding="utf-8")
        digests.append(open_dataset("small", calib_root=calib).digest)
        # One byte of the same size: only reading the file shows it.
        data = bytearray((folder / "images" / "2.png").read_bytes())
        data[-20] ^= 1
        (folder / "images" / "2.png").write_bytes(bytes(data))
        digests.append(open_dataset("small", calib_root=calib).digest)
        assert len(set(digests)) == 3

    def test_figures_belong_to_exactly_the_listed_files(self, calib: Path) -> None:
        imagenet_like(calib, "0.png 0\n1.png 1\n2.png 2\n")
        digest = open_dataset("small", calib_root=calib).digest
        imagenet_like(calib, "0.png 0\n1.png 1\n2.png 2\n", extra=f'content = "{digest}"\n')
        assert open_dataset("small", calib_root=calib).exact
        assert not open_dataset("small", calib_root=calib, subset=2).exact
        imagenet_like(calib, "0.png 0\n1.png 1\n2.png 3\n", extra=f'content = "{digest}"\n')
        assert not open_dataset("small", calib_root=calib).exact


class TestOtherKinds:
    def test_folders(self, calib: Path) -> None:
        folder = manifest(calib, "pets", 'kind = "folders"\n')
        for name in ("dog/b.png", "cat/a.png", "dog/a.png"):
            picture(folder / name)
        (folder / "cat" / "Thumbs.db").write_bytes(b"x")
        dataset = open_dataset("pets", calib_root=calib)
        assert dataset.names == ("cat", "dog")
        assert [(dataset.file(i), dataset.label(i)) for i in range(3)] == [
            ("cat/a.png", 0),
            ("dog/a.png", 1),
            ("dog/b.png", 1),
        ]

    @pytest.mark.parametrize("shape", [(5, 4, 6, 3), (5, 4, 6, 1), (5, 4, 6)])
    def test_npz(self, calib: Path, shape: tuple[int, ...]) -> None:
        folder = manifest(calib, "arrays", 'kind = "npz"\nclasses = 3\n')
        pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        np.savez(folder / "arrays.npz", x=pixels, y=np.array([0, 1, 2, 1, 0], np.int32))
        dataset = open_dataset("arrays", calib_root=calib)
        image = dataset.image(3)
        assert image.shape == (4, 6, 3)
        assert np.array_equal(image, np.broadcast_to(pixels[3].reshape(4, 6, -1), (4, 6, 3)))
        assert dataset.label(2) == 2

    @pytest.mark.parametrize(
        ("arrays", "key"),
        [
            ({"x": np.zeros((2, 3, 3, 3), np.float32)}, "data.npz-images"),
            ({"x": np.zeros((2, 3, 3, 4), np.uint8)}, "data.npz-images"),
            ({"x": np.zeros((2, 3, 3), np.uint8), "y": np.zeros(3, int)}, "data.label-count"),
            ({"x": np.zeros((2, 3, 3), np.uint8), "y": np.zeros(2, float)}, "data.npz-labels"),
            ({"x": np.zeros((2, 3, 3), np.uint8), "y": np.array([0, 7])}, "data.label-out-of-range"),
            ({"z": np.zeros(1)}, "data.npz-key"),
        ],
    )
    def test_bad_npz(self, calib: Path, arrays: dict[str, np.ndarray], key: str) -> None:
        folder = manifest(calib, "arrays", 'kind = "npz"\nclasses = 3\n')
        np.savez(folder / "arrays.npz", **arrays)
        with pytest.raises(DataError) as caught:
            open_dataset("arrays", calib_root=calib)
        assert caught.value.message.key == key

    def test_an_npz_of_pickles_is_not_opened(self, calib: Path) -> None:
        folder = manifest(calib, "arrays", 'kind = "npz"\n')
        np.savez(folder / "arrays.npz", x=np.array([{"a": 1}], dtype=object))
        with pytest.raises(DataError) as caught:
            open_dataset("arrays", calib_root=calib)
        assert caught.value.message.key == "data.npz-unreadable"
        (folder / "arrays.npz").write_bytes(b"PK\x03\x04 cut off")
        with pytest.raises(DataError):
            open_dataset("arrays", calib_root=calib)

    def test_coco(self, calib: Path) -> None:
        folder = coco(calib)
        dataset = open_dataset("boxes", calib_root=calib)
        assert dataset.names == ("ant", "bee")
        assert dataset.categories == (3, 7)
        assert [entry["class"] for entry in dataset.annotations(0)] == [1]
        assert dataset.annotations(0)[0]["area"] == 4.0
        assert dataset.annotations(1) == []
        assert folder

    @pytest.mark.parametrize(
        ("change", "key"),
        [
            (lambda data: data.pop("categories"), "data.not-coco"),
            (lambda data: data["annotations"][0].update(bbox=[0, 0, -1, 2]), "data.coco-box"),
            (lambda data: data["annotations"][0].update(bbox=[0, 0, 1]), "data.not-coco"),
            (lambda data: data["annotations"][0].update(bbox=[0, 0, 1, 2, 3]), "data.coco-box"),
            (lambda data: data["annotations"][0].update(bbox=[0, 0, 1, float("nan")]), "data.coco-box"),
            (lambda data: data["annotations"][0].update(image_id=99), "data.coco-unknown-image"),
            (lambda data: data["annotations"][0].update(category_id=99), "data.coco-unknown-category"),
            (lambda data: data["images"][1].update(id=1), "data.coco-duplicate-id"),
            (lambda data: data["images"][1].update(file_name="a.png"), "data.duplicate"),
            (lambda data: data["images"][1].update(file_name="/etc/passwd"), "data.outside"),
            (lambda data: data["images"][1].update(file_name="zzz.png"), "data.images-missing"),
            (lambda data: data["images"][1].update(file_name="z" * 5000), "data.images-missing"),
            (lambda data: data["images"][1].update(file_name="z\0.png"), "data.images-missing"),
        ],
    )
    def test_bad_coco(self, calib: Path, change, key: str) -> None:
        folder = coco(calib)
        data = json.loads((folder / "instances.json").read_text())
        change(data)
        (folder / "instances.json").write_text(json.dumps(data))
        with pytest.raises(DataError) as caught:
            open_dataset("boxes", calib_root=calib)
        assert caught.value.message.key == key

    @pytest.mark.parametrize("text", ["", "[1, 2]", "{", "[" * 100_000])
    def test_json_that_is_none(self, calib: Path, text: str) -> None:
        folder = coco(calib)
        (folder / "instances.json").write_text(text)
        with pytest.raises(DataError):
            open_dataset("boxes", calib_root=calib)

    def test_masks(self, calib: Path) -> None:
        folder = manifest(calib, "cells", 'kind = "masks"\nimages = "images"\nclasses = 2\n')
        picture(folder / "images" / "a.png")
        (folder / "masks").mkdir()
        Image.fromarray(np.array([[0, 1], [255, 0]], np.uint8)).save(folder / "masks" / "a.png")
        assert open_dataset("cells", calib_root=calib).mask(0).tolist() == [[0, 1], [255, 0]]
        Image.fromarray(np.array([[0, 2]], np.uint8)).save(folder / "masks" / "a.png")
        with pytest.raises(DataError):
            open_dataset("cells", calib_root=calib).mask(0)
        (folder / "masks" / "a.png").unlink()
        with pytest.raises(DataError) as caught:
            open_dataset("cells", calib_root=calib)
        assert caught.value.message.key == "data.images-missing"


def coco(calib: Path) -> Path:
    folder = manifest(calib, "boxes", 'kind = "coco"\n')
    for name in ("a.png", "b.png"):
        picture(folder / name)
    data = {
        "images": [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "b.png"}],
        "categories": [{"id": 7, "name": "bee"}, {"id": 3, "name": "ant"}],
        "annotations": [{"image_id": 1, "category_id": 7, "bbox": [0, 0, 2, 2]}],
    }
    (folder / "instances.json").write_text(json.dumps(data))
    return folder


class TestFinding:
    def test_absent_data_says_how_to_get_it_in_both_languages(self, calib: Path, tmp_path: Path) -> None:
        text = 'kind = "images"\nlicence = "MIT"\nsource = "https://example.org"\n'
        manifest(calib, "far", text + '[how_to_get]\nen = "Buy it."\nzh = "去买。"\n')
        with pytest.raises(DatasetAbsent) as caught:
            open_dataset("far", calib_root=calib, data_roots=[tmp_path / "data"])
        english, chinese = caught.value.render("en"), caught.value.render("zh")
        assert "Buy it." in english
        assert "去买。" in chinese
        assert "MIT" in english
        assert "https://example.org" in english
        assert str(tmp_path / "data" / "far") in english

    def test_data_roots_in_order_then_override(self, calib: Path, tmp_path: Path) -> None:
        manifest(calib, "far", 'kind = "npz"\nfile = "f.npz"\n')
        roots = [tmp_path / "one", tmp_path / "two"]
        for value, folder in enumerate((*roots, tmp_path / "three")):
            folder.mkdir()
            np.savez(folder / "f.npz", x=np.full((1, 2, 2), value, np.uint8))
        assert open_dataset("far", calib_root=calib, data_roots=roots).image(0)[0, 0, 0] == 0
        assert open_dataset("far", calib_root=calib, data_roots=roots[::-1]).image(0)[0, 0, 0] == 1
        override = {"far": tmp_path / "three"}
        assert open_dataset("far", calib_root=calib, data_roots=roots, overrides=override).image(0)[0, 0, 0] == 2
        with pytest.raises(DataError) as caught:
            open_dataset("far", calib_root=calib, overrides={"far": tmp_path})
        assert caught.value.message.key == "data.override-empty"

    def test_an_unknown_dataset_names_those_that_are_there(self, calib: Path) -> None:
        manifest(calib, "cifar", 'kind = "npz"\n')
        with pytest.raises(DataError, match="cifar"):
            open_dataset("cifra", calib_root=calib)

    def test_a_wrong_key_is_said_with_its_line(self, calib: Path) -> None:
        folder = manifest(calib, "far", 'kind = "images"\nlabel = "x"\n')
        with pytest.raises(SpecError, match=r"dataset\.toml:2.*labels"):
            load_manifest(folder)
        manifest(calib, "far", 'kind = "npz"\nfile = "../../x.npz"\n')
        with pytest.raises(SpecError):
            load_manifest(folder)


@pytest.mark.parametrize(
    ("name", "count", "classes"), [("cifar10_249", 249, 10), ("imagenet650", 650, 1000), ("coco141", 141, 80)]
)
def test_the_real_datasets_are_the_listed_files(
    name: str, count: int, classes: int, data_root: Path, repository: Path
) -> None:
    dataset = open_dataset(name, calib_root=repository / "calib", data_roots=[data_root])
    assert (len(dataset), dataset.classes) == (count, classes)
    assert dataset.exact
