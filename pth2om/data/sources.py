"""How each kind of dataset is read from its folder."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pth2om.data.image import SUFFIXES, Pixels, decode
from pth2om.data.manifest import Manifest
from pth2om.data.npz import load_arrays, read_images
from pth2om.errors import DataError, first_line
from pth2om.files import is_file, is_folder, write_text
from pth2om.store import Store, file_digest

_LABEL_BYTES = 256 << 20  # a label file larger than this is not one (all of COCO train2017 is 448 MB, val2017 20 MB)
_JSON_BYTES = 1 << 30
_WNID = re.compile(r"^n\d{8}$")


@dataclass
class Source:
    """The content of a dataset's folder.

    Attributes:
        files: unique name of each image.
        paths: the file of each image; empty if the images are in one array.
        labels: class of each image, int64 (N,).
        names: class names.
        categories: category id of each class (coco).
        boxes: annotations of each image (coco).
        masks: mask file of each image.
        arrays: images and labels of an ``.npz``.
        tensors: of kind ``arrays``: input -> its array, one row an item.
    """

    files: Sequence[str]
    paths: Sequence[Path] = ()
    labels: npt.NDArray[np.int64] | None = None
    names: tuple[str, ...] = ()
    categories: tuple[int, ...] = ()
    boxes: Sequence[Sequence[Mapping[str, Any]]] | None = None
    masks: Sequence[Path] | None = None
    archive: Path | None = None
    arrays: Callable[[], tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64] | None]] | None = None
    mask_array: bool = False
    tensors: Mapping[str, npt.NDArray[Any]] | None = None
    classes: int | None = None
    _memo: dict[str, str] = field(default_factory=dict)

    @property
    def has_labels(self) -> bool:
        """Whether there is a label, annotation or mask per image."""
        return self.labels is not None or self.boxes is not None or self.masks is not None or self.mask_array

    @property
    def has_volumes(self) -> bool:
        """Whether it holds volumes, not pictures."""
        return False

    def image(self, index: int) -> Pixels:
        """See `pth2om.data.Labelled.image`."""
        if self.tensors is not None:
            raise DataError("data.arrays-no-image", where=self.files[index])
        if self.arrays is None:
            return decode(self.paths[index], index=index)
        pixels = self.arrays()[0][index]
        if pixels.ndim == 2:
            pixels = pixels[:, :, None]
        return np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))

    def annotations(self, index: int) -> Sequence[Mapping[str, Any]]:
        """See `pth2om.data.Labelled.annotations`."""
        if self.boxes is None:
            raise DataError("data.no-annotations", where=self.files[index])
        return self.boxes[index]

    def mask(self, index: int) -> npt.NDArray[np.uint8]:
        """See `pth2om.data.Labelled.mask`."""
        if self.mask_array and self.arrays is not None:
            labels = self.arrays()[1]
            assert labels is not None
            return np.asarray(labels[index], dtype=np.uint8)
        if self.masks is None:
            raise DataError("data.no-masks", where=self.files[index])
        return _mask(self.masks[index], index, self.classes)

    def content(self, count: int, store: Store) -> str:
        """Digest of the first ``count`` images and their labels."""
        digest = hashlib.sha256()
        if self.archive is not None:
            # The archive's directory has a CRC of each array, which distinguishes two files without reading the arrays.
            with zipfile.ZipFile(self.archive) as archive:
                for entry in sorted(archive.infolist(), key=lambda entry: entry.filename):
                    digest.update(f"{entry.filename}\0{entry.file_size}\0{entry.CRC}\0".encode())
            digest.update(str(count).encode())
            return digest.hexdigest()
        digest.update(json.dumps(list(self.files[:count])).encode())
        if self.labels is not None:
            digest.update(self.labels[:count].astype("<i8").tobytes())
        if self.boxes is not None:
            digest.update(json.dumps([list(boxes) for boxes in self.boxes[:count]], sort_keys=True).encode())
        paths = [*self.paths[:count], *(self.masks[:count] if self.masks is not None else ())]
        digest.update(files_digest(paths, store).encode())
        return digest.hexdigest()


def is_image(path: Path) -> bool:
    """Whether a folder's entry counts as an image: by its suffix, except hidden files."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()


def read(manifest: Manifest, folder: Path) -> Source:
    """Read labels and list images; nothing is decoded.

    Raises:
        DataError: files are missing, or labels and images do not belong together.
    """
    source = {"images": _images, "folders": _folders, "coco": _coco, "masks": _masks, "npz": _npz, "arrays": _arrays}[
        manifest.kind
    ](manifest, folder)
    if not source.files:
        raise DataError("data.empty", where=str(folder))
    source.classes = manifest.classes or len(source.names) or None
    if source.labels is not None and source.classes is not None:
        bad = np.flatnonzero((source.labels < 0) | (source.labels >= source.classes))
        if bad.size:
            index = int(bad[0])
            raise DataError(
                "data.label-out-of-range",
                where=f"{folder} #{index} {source.files[index]}",
                label=int(source.labels[index]) + manifest.first_class,
                first=manifest.first_class,
                last=source.classes - 1 + manifest.first_class,
                count=int(bad.size),
            )
    return source


# ---------------------------------------------------------------------------------------------------- kinds


def _images(manifest: Manifest, folder: Path) -> Source:
    root = _image_folder(manifest, folder)
    names, wnids = _names(manifest, folder)
    if not manifest.label_file:
        paths = sorted((path for path in root.iterdir() if is_image(path)), key=lambda path: path.name)
        return Source([path.name for path in paths], paths, names=names)
    label_file = folder / manifest.label_file
    rows = [re.split(r"[,\s]+", line.strip().strip(",")) for line in _lines(label_file)]
    numbered = [(number, row) for number, row in enumerate(rows, 1) if row != [""] and not row[0].startswith("#")]
    if numbered and all(len(row) == 1 for _, row in numbered):
        paths = sorted((path for path in root.iterdir() if is_image(path)), key=lambda path: path.name)
        files = [path.name for path in paths]
        texts = [(number, row[0]) for number, row in numbered]
    else:
        for number, row in numbered:
            if len(row) != 2:
                raise DataError("data.label-line", where=f"{label_file}:{number}", line=" ".join(row)[:80])
        files = [row[0] for _, row in numbered]
        paths = [root / file for file in files]
        texts = [(number, row[1]) for number, row in numbered]
        _check_listed(label_file, files, paths)
        _check_all_listed(label_file, paths)
    if len(files) != len(texts):
        raise DataError("data.label-count", where=str(label_file), labels=len(texts), images=len(files))
    classes = [_class(text, names, wnids, manifest, f"{label_file}:{number}") for number, text in texts]
    return Source(files, paths, labels=np.array(classes, dtype=np.int64), names=names)


def _check_listed(label_file: Path, files: Sequence[str], paths: Sequence[Path]) -> None:
    """Check that every listed file exists, once, below the image folder."""
    seen: dict[str, int] = {}
    for index, file in enumerate(files):
        if file in seen:
            raise DataError("data.duplicate", where=str(label_file), file=file, first=seen[file], second=index)
        seen[file] = index
        if Path(file).is_absolute() or ".." in Path(file).parts:
            raise DataError("data.outside", where=str(label_file), file=file)
    _check_present(label_file, paths)


def _check_all_listed(label_file: Path, paths: Sequence[Path]) -> None:
    """Check that every image beside the listed ones is listed, too."""
    parents = {path.parent for path in paths}
    present = sum(1 for parent in parents for entry in parent.iterdir() if is_image(entry))
    if present != len(paths):
        raise DataError("data.label-count", where=str(label_file), labels=len(paths), images=present)


def _folders(manifest: Manifest, folder: Path) -> Source:
    root = _image_folder(manifest, folder)
    classes = sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    files, paths, labels = [], [], []
    for number, name in enumerate(classes):
        for path in sorted((root / name).iterdir(), key=lambda path: path.name):
            if is_image(path):
                files.append(f"{name}/{path.name}")
                paths.append(path)
                labels.append(number)
    return Source(files, paths, labels=np.array(labels, dtype=np.int64), names=tuple(classes))


def _coco(manifest: Manifest, folder: Path) -> Source:
    path = folder / manifest.label_file
    data = _json(path)
    root = _image_folder(manifest, folder)
    try:
        categories = sorted((int(entry["id"]), str(entry.get("name", entry["id"]))) for entry in data["categories"])
        class_of = {number: index for index, (number, _) in enumerate(categories)}
        position = {int(image["id"]): index for index, image in enumerate(data["images"])}
        files = [str(image["file_name"]) for image in data["images"]]
        boxes: list[list[Mapping[str, Any]]] = [[] for _ in files]
        annotations = data["annotations"]
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            "data.not-coco", where=str(path), reason=first_line(f"{type(error).__name__}: {error}")
        ) from None
    if len(position) != len(files):
        raise DataError("data.coco-duplicate-id", where=str(path))
    for number, annotation in enumerate(annotations):
        image, entry = _annotation(annotation, f"{path} annotations[{number}]", position, class_of)
        boxes[image].append(entry)
    paths = [root / Path(file) for file in files]
    _check_listed(path, files, paths)
    return Source(
        files,
        paths,
        names=tuple(name for _, name in categories),
        categories=tuple(number for number, _ in categories),
        boxes=boxes,
    )


def _annotation(
    annotation: Mapping[str, Any], where: str, position: Mapping[int, int], class_of: Mapping[int, int]
) -> tuple[int, dict[str, Any]]:
    try:
        box = [float(value) for value in annotation["bbox"]]
        image, category = int(annotation["image_id"]), int(annotation["category_id"])
        area = float(annotation.get("area", box[2] * box[3]))
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise DataError("data.not-coco", where=where, reason=first_line(f"{type(error).__name__}: {error}")) from None
    if len(box) != 4 or not all(map(math.isfinite, [*box, area])) or box[2] < 0 or box[3] < 0:
        raise DataError("data.coco-box", where=where, box=str(annotation["bbox"])[:80])
    if image not in position:
        raise DataError("data.coco-unknown-image", where=where, image=image)
    if category not in class_of:
        raise DataError("data.coco-unknown-category", where=where, category=category)
    crowd = int(annotation.get("iscrowd", 0))
    return position[image], {"bbox": box, "area": area, "iscrowd": crowd, "class": class_of[category]}


def _check_present(where: Path, paths: Sequence[Path]) -> None:
    missing = [index for index, path in enumerate(paths) if not is_file(path)]
    if missing:
        raise DataError(
            "data.images-missing",
            where=str(where),
            count=len(missing),
            of=len(paths),
            index=missing[0],
            file=str(paths[missing[0]]),
        )


def _masks(manifest: Manifest, folder: Path) -> Source:
    root = _image_folder(manifest, folder)
    names, _ = _names(manifest, folder)
    paths = sorted((path for path in root.iterdir() if is_image(path)), key=lambda path: path.name)
    masks = [folder / manifest.label_file / f"{path.stem}.png" for path in paths]
    _check_present(folder, masks)
    return Source([path.name for path in paths], paths, masks=masks, names=names)


def _npz(manifest: Manifest, folder: Path) -> Source:
    path = folder / manifest.array_file
    names, _ = _names(manifest, folder)
    loaded: list[tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64] | None]] = []

    def arrays() -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64] | None]:
        if not loaded:
            loaded.append(read_images(path, manifest))
        return loaded[0]

    pixels, labels = arrays()
    files = [f"{path.name}[{index}]" for index in range(len(pixels))]
    flat = labels if labels is not None and labels.ndim == 1 else None
    if flat is not None:
        flat = flat - manifest.first_class
    return Source(
        files,
        labels=flat,
        names=names,
        archive=path,
        arrays=arrays,
        mask_array=labels is not None and labels.ndim == 3,
    )


def _arrays(manifest: Manifest, folder: Path) -> Source:
    """One array an input, and the labels under ``y``."""
    path = folder / manifest.array_file
    names, _ = _names(manifest, folder)
    arrays = load_arrays(path)
    labels = arrays.pop(manifest.y, None)
    if not arrays:
        raise DataError("data.npz-key", where=str(path), key="(input)", known=manifest.y)
    first = next(iter(arrays))
    for name, array in arrays.items():
        if array.ndim < 1 or len(array) != len(arrays[first]) or array.dtype.kind not in "fiub":
            shape = "x".join(map(str, array.shape))
            raise DataError("data.arrays-rows", where=f"{path}[{name}]", dtype=str(array.dtype), shape=shape)
    count = len(arrays[first])
    if labels is not None and (labels.dtype.kind not in "iu" or labels.ndim != 1):
        shape = "x".join(map(str, labels.shape))
        raise DataError("data.npz-labels", where=f"{path}[{manifest.y}]", dtype=str(labels.dtype), shape=shape)
    if labels is not None and len(labels) != count:
        raise DataError("data.label-count", where=str(path), labels=len(labels), images=count)
    return Source(
        [f"{path.name}[{index}]" for index in range(count)],
        labels=None if labels is None else labels.astype(np.int64) - manifest.first_class,
        names=names,
        archive=path,
        tensors=arrays,
    )


# ---------------------------------------------------------------------------------------------------- parts


def _image_folder(manifest: Manifest, folder: Path) -> Path:
    if manifest.images is None:
        return folder
    if is_folder(folder / manifest.images):
        return folder / manifest.images
    if any(is_image(entry) for entry in folder.iterdir()):
        return folder  # a folder given with --om-dataset often contains the images directly
    raise DataError("data.no-image-folder", where=str(folder), images=manifest.images)


def _names(manifest: Manifest, folder: Path) -> tuple[tuple[str, ...], dict[str, int]]:
    """Class names, and WordNet id -> class if the names file has the ids."""
    if manifest.names is None:
        return (), {}
    if not isinstance(manifest.names, str):
        return manifest.names, {}
    path = next((place / manifest.names for place in (folder, manifest.place) if is_file(place / manifest.names)), None)
    if path is None:
        raise DataError("data.no-names", where=str(folder / manifest.names))
    names: list[str] = []
    wnids: dict[str, int] = {}
    for line in _lines(path):
        if not line.strip():
            continue
        head, _, rest = line.strip().partition(" ")
        if _WNID.match(head):
            wnids[head] = len(names)
            line = rest or head
        names.append(line.split(",")[0].strip())
    return tuple(names), wnids


def _class(text: str, names: Sequence[str], wnids: Mapping[str, int], manifest: Manifest, where: str) -> int:
    if re.fullmatch(r"[+-]?\d{1,9}", text):
        return int(text) - manifest.first_class
    if text in wnids:
        return wnids[text]
    if text in names:
        return names.index(text)
    raise DataError("data.label-unknown", where=where, label=text[:40])


def _lines(path: Path) -> list[str]:
    try:
        if path.stat().st_size > _LABEL_BYTES:
            raise DataError("data.too-large", where=str(path), size=path.stat().st_size, limit=_LABEL_BYTES)
        return path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise DataError("data.labels-unreadable", where=str(path), reason=first_line(error)) from None


def _json(path: Path) -> Any:  # noqa: ANN401 - JSON
    try:
        if path.stat().st_size > _JSON_BYTES:
            raise DataError("data.too-large", where=str(path), size=path.stat().st_size, limit=_JSON_BYTES)
        data = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError("data.labels-unreadable", where=str(path), reason=first_line(error)) from None
    if not isinstance(data, dict):
        raise DataError("data.not-coco", where=str(path), reason="no JSON object")
    return data


def _mask(path: Path, index: int, classes: int | None) -> npt.NDArray[np.uint8]:
    from PIL import Image

    try:
        with Image.open(path) as image:
            if image.mode not in ("L", "P", "1"):
                raise DataError("data.mask-mode", where=f"{path} #{index}", mode=image.mode)
            mask = np.array(image, dtype=np.uint8)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError("data.image-unreadable", where=f"{path} #{index}", reason=first_line(error)) from None
    if classes is not None and np.any((mask >= classes) & (mask != 255)):
        worst = int(mask[(mask != 255)].max())
        raise DataError(
            "data.label-out-of-range", where=f"{path} #{index}", label=worst, first=0, last=classes - 1, count=1
        )
    return mask


def files_digest(paths: Sequence[Path], store: Store) -> str:
    """Digest of the files' bytes, cached in one small file under the names, sizes and times of all of them."""
    marks = []
    for index, path in enumerate(paths):
        try:
            status = path.stat()
        except OSError:
            raise DataError("data.image-missing", where=f"{path} #{index}") from None
        marks.append(
            f"{path.absolute()}\0{status.st_size}\0{status.st_mtime_ns}\0{status.st_ctime_ns}\0{status.st_ino}"
        )
    memo = store.root / "digests" / hashlib.sha256("\n".join(marks).encode()).hexdigest()
    with contextlib.suppress(OSError):
        text = memo.read_text(encoding="ascii")
        if len(text) == 64:
            return text
    digest = hashlib.sha256()
    path = Path()
    try:
        for path in paths:
            digest.update(file_digest(path).encode())
    except OSError as error:
        raise DataError("data.image-unreadable", where=str(path), reason=first_line(error)) from None
    with contextlib.suppress(OSError):  # without the cached digest the files are only read again
        memo.parent.mkdir(parents=True, exist_ok=True)
        write_text(memo, digest.hexdigest())
    return digest.hexdigest()
