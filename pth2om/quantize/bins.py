"""Calibration data: images through a preprocessing into ``.bin`` batches, and such batches back into feeds.

A ``.bin`` is one whole batch, C order, no header (``ndarray.tofile``), as amct_onnx and msame read it. Those tools sort
names as text, so names are zero-padded; what lies in the folder is read in number order, with a warning where the two
differ. Everything streams: one batch is in memory at a time.
"""

from __future__ import annotations

import itertools
import math
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from pth2om.errors import QuantizeError
from pth2om.evidence import Finding
from pth2om.files import is_folder
from pth2om.language import say
from pth2om.quantize.bin_records import folder_names, named_folder, read_record, write_record
from pth2om.quantize.preprocessing import image_shape
from pth2om.spec import Preprocess

Array = npt.NDArray[np.generic]
_LARGEST_BATCH = 4 << 30
"""Bytes of one batch of images."""
_NUMBERS = frozenset(
    {"bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64"}
)
"""What a ``.bin`` may hold (amct_onnx ``--data_types``)."""


# ----------------------------------------------------------------------------------------------------------- images


class ImageBatches:
    """The images of a folder, preprocessed, one batch at a time; the last batch is filled up with its last image.

    Images that lie in sub-folders only (one per class, as ImageNet has them) are taken from each folder in turn, so
    that the first few are of many classes.

    Args:
        folder: images, in order of their names with numbers compared as numbers.
        preprocess: what is done to each.
        batch: images per batch.
        name: input they feed.
        limit: at most so many images.

    Raises:
        QuantizeError: no folder, no image in it, or a batch beyond any memory.
    """

    def __init__(
        self, folder: Path, preprocess: Preprocess, batch: int, name: str = "input", limit: int | None = None
    ) -> None:
        from pth2om.data.sources import is_image

        if not is_folder(folder):
            raise QuantizeError("bins.no-folder", where=str(folder))
        self.findings: list[Finding] = []
        found = sorted((path for path in folder.iterdir() if is_image(path)), key=_natural)
        below = [sorted((one for one in part.rglob("*") if is_image(one)), key=_natural) for part in _parts(folder)]
        count = sum(len(files) for files in below)
        if not found and count:
            found = [file for row in itertools.zip_longest(*below) for file in row if file is not None]
            message = say(
                "bins.sub-folders", folder=str(folder), count=count, folders=len([one for one in below if one])
            )
            self.findings.append(Finding("bins.sub-folders", "info", message))
        elif count:
            message = say("bins.sub-folders-unread", folder=str(folder), count=count)
            self.findings.append(Finding("bins.sub-folders-unread", "warning", message))
        if not found:
            raise QuantizeError("bins.no-images", where=str(folder))
        size = 4 * batch * math.prod(image_shape(preprocess))
        if size > _LARGEST_BATCH:
            shape = _shape((batch, *image_shape(preprocess)))
            raise QuantizeError("bins.batch-too-large", shape=shape, size=size >> 20, limit=_LARGEST_BATCH >> 20)
        self.files, self.folder = found[:limit], folder
        self.preprocess, self.batch, self.name = preprocess, batch, name

    def __len__(self) -> int:
        return -(-len(self.files) // self.batch)

    @property
    def images(self) -> list[str]:
        """The images' paths below the folder, in order; the last batch's filling not included."""
        return [path.relative_to(self.folder).as_posix() for path in self.files]

    def __iter__(self) -> Iterator[dict[str, Array]]:
        from pth2om.data.image import decode
        from pth2om.data.preprocess import Preprocessor

        prepare = Preprocessor(self.preprocess)
        for start in range(0, len(self.files), self.batch):
            chosen = self.files[start : start + self.batch]
            array = np.empty((self.batch, *prepare.shape), np.float32)
            for row, path in enumerate(chosen):
                array[row], _ = prepare(decode(path), where=str(path))
            array[len(chosen) :] = array[len(chosen) - 1]
            yield {self.name: array}


def _parts(folder: Path) -> list[Path]:
    """Sub-folders that are not hidden, in number order."""
    return sorted((path for path in folder.iterdir() if path.is_dir() and path.name[0] != "."), key=_natural)


def _natural(path: Path) -> tuple[tuple[int, Any], ...]:
    """Sort key: digits compared as numbers."""
    return tuple((1, int(part)) if part.isdigit() else (0, part) for part in re.split(r"(\d+)", path.name) if part)


# ------------------------------------------------------------------------------------------------------------- bins


@dataclass(frozen=True)
class BinFolder:
    """What `write_bins` wrote.

    Attributes:
        folders: input -> folder of its batches; one input has the destination itself.
        record: JSON beside the destination with names, dtypes and shapes.
        batches: files per input.
    """

    folders: Mapping[str, Path]
    record: Path
    batches: int


def write_bins(batches: Iterable[Mapping[str, Array]], destination: Path) -> BinFolder:
    """Write batches as ``.bin`` files, one at a time.

    The record lies beside the folder, not in it: amct_onnx takes every file of the folder for a batch.

    Args:
        batches: input name -> array, all of one shape and dtype.
        destination: a folder that does not exist yet, or is empty.

    Raises:
        QuantizeError: the folder is not empty, a batch differs from the first, there is none, or no space is left.
    """
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise QuantizeError("bins.not-empty", where=str(destination))
    destination = named_folder(destination)
    record = destination.with_name(f"{destination.name}.json")
    if record.exists() and read_record(record) is None:
        raise QuantizeError("bins.record-in-the-way", where=str(record), folder=str(destination))
    total = len(batches) if isinstance(batches, Sized) else None
    digits = max(4, len(str(total - 1))) if total else 6
    temporary = destination.with_name(f".{destination.name}.{uuid.uuid4().hex}")
    entries: dict[str, dict[str, Any]] = {}
    count = 0
    try:
        for count, batch in enumerate(batches, 1):
            places = folder_names(list(batch))
            for name, array in batch.items():
                value = np.ascontiguousarray(array)
                entry = entries.setdefault(name, {"dtype": value.dtype.name, "shape": list(value.shape)})
                if entry["shape"] != list(value.shape) or entry["dtype"] != value.dtype.name:
                    raise QuantizeError("bins.uneven", where=name, batch=count - 1)
                folder = temporary / places[name] if len(batch) > 1 else temporary
                folder.mkdir(parents=True, exist_ok=True)
                value.tofile(folder / f"batch_{count - 1:0{digits}d}.bin")
        if count == 0:
            raise QuantizeError("quantize.no-data")
        if destination.exists():
            # Filled, not replaced: it may be somebody's current folder.
            for path in sorted(temporary.iterdir()):
                path.replace(destination / path.name)
        else:
            temporary.replace(destination)
        write_record(record, entries, count, getattr(batches, "images", None))
    except OSError as error:
        # A short write of tofile carries its reason in the text only.
        reason = error.strerror or str(error)
        raise QuantizeError("quantize.not-writable", where=str(destination), reason=reason) from None
    finally:
        import shutil

        shutil.rmtree(temporary, ignore_errors=True)
    names = folder_names(list(entries))
    folders = {name: destination / names[name] if len(entries) > 1 else destination for name in entries}
    return BinFolder(folders, record, count)


@dataclass(frozen=True)
class InputShape:
    """One input that bins feed.

    Attributes:
        name: of the input.
        shape: with the batch axis; None for an axis that the file sizes decide (at most one).
        dtype: NumPy name.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str = "float32"


@dataclass
class BinBatches:
    """``.bin`` batches of a folder, checked before the first is read, then read one at a time.

    Attributes:
        inputs: what they feed, shapes complete.
        files: per input its files in batch order.
        images: names of the images that they were made of, where a record beside the folder says.
        findings: names that the vendor tool would read in another order, files that are not read.
    """

    inputs: tuple[InputShape, ...]
    files: Mapping[str, Sequence[Path]]
    images: list[str] | None = None
    findings: list[Finding] = field(default_factory=list)

    def __len__(self) -> int:
        return len(next(iter(self.files.values())))

    @property
    def folders(self) -> list[Path]:
        """One folder per input, in the inputs' order."""
        return [self.files[entry.name][0].parent for entry in self.inputs]

    def __iter__(self) -> Iterator[dict[str, Array]]:
        for number in range(len(self)):
            yield {
                entry.name: np.fromfile(self.files[entry.name][number], np.dtype(entry.dtype)).reshape(
                    cast("tuple[int, ...]", entry.shape)
                )
                for entry in self.inputs
            }


def open_bins(folders: Sequence[Path], inputs: Sequence[InputShape], limit: int | None = None) -> BinBatches:
    """Open ``.bin`` batches.

    Args:
        folders: one per input, named like the inputs or else in their order; or one folder with a sub-folder per input.
        inputs: what the model takes.
        limit: at most so many batches.

    Raises:
        QuantizeError: no bins, different numbers per input, files that are not exactly one batch (each named with what
            it seems to hold), or a record beside them that names another input, dtype or shape.
    """
    places = _places(folders, inputs)
    batches = BinBatches((), {})
    shapes, files = [], {}
    for entry, folder in zip(inputs, places, strict=True):
        ordered = _bins_in(folder, batches.findings)
        record, recorded = _recorded(folder, len(inputs) == 1)
        shapes.append(_checked(folder, ordered, _as_recorded(entry, recorded, folder)))
        files[entry.name] = ordered[:limit]
        if record is not None and batches.images is None and isinstance(record.get("images"), list):
            batches.images = [str(name) for name in record["images"]]
    counts = {name: len(paths) for name, paths in files.items()}
    if len(set(counts.values())) > 1:
        text = ", ".join(f"{name}: {count}" for name, count in counts.items())
        raise QuantizeError("bins.uneven-counts", where=str(folders[0]), counts=text)
    batches.inputs, batches.files = tuple(shapes), files
    if batches.images is not None:
        first = shapes[0].shape[0] if shapes[0].shape else 1
        batches.images = batches.images[: len(batches) * (first or 1)]
    return batches


def _bins_in(folder: Path, findings: list[Finding]) -> list[Path]:
    """The bins of a folder in number order; what else lies there is named."""
    from pth2om.data.sources import is_image

    everything = sorted((path for path in folder.iterdir() if path.is_file()), key=_natural)
    found = [path for path in everything if path.suffix == ".bin"]
    others = [path for path in everything if path.suffix != ".bin"]
    if not found:
        arrays = sum(path.suffix in (".npy", ".npz") for path in others)
        pictures = any(is_image(path) for path in others)
        key = "bins.only-arrays" if arrays else "bins.only-images" if pictures else "bins.no-bins"
        raise QuantizeError(key, where=str(folder), count=arrays, first=others[0].name if others else "")
    if others:
        message = say("bins.other-files", folder=str(folder), count=len(others), first=others[0].name)
        findings.append(Finding("bins.other-files", "warning", message))
    if found != sorted(found, key=lambda path: path.name):
        first, second = _disorder(found)
        message = say("bins.text-order", folder=str(folder), first=first, second=second)
        findings.append(Finding("bins.text-order", "warning", message))
    return found


def _recorded(folder: Path, single: bool) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """The record that lies beside a folder, or beside the folder around it, and its entry for this folder."""
    folder = named_folder(folder)
    for place in (folder, named_folder(folder.parent)):
        if not place.name:
            break  # the root of the disk
        record = read_record(place.with_name(f"{place.name}.json"))
        if record is None:
            continue
        entries = record["inputs"]
        if place == folder:
            return record, entries[0] if len(entries) == 1 else None
        named = [entry for entry in entries if entry.get("folder") == folder.name]
        return record, named[0] if named and (len(entries) > 1 or single) else None
    return None, None


def _as_recorded(entry: InputShape, recorded: Mapping[str, Any] | None, folder: Path) -> InputShape:
    """The input with open axes filled from the record; sizes alone cannot tell dtypes and axes apart.

    Raises:
        QuantizeError: the bins were written for another input, dtype or shape.
    """
    if recorded is None:
        return entry
    shape = tuple(recorded["shape"])
    fits = len(shape) == len(entry.shape) and all(
        wanted in (None, size) for wanted, size in zip(entry.shape, shape, strict=True)
    )
    # A batch of another size is told by the files themselves, in words of its own.
    fits = fits or (len(shape) == len(entry.shape) and shape[1:] == entry.shape[1:])
    if recorded["dtype"] != entry.dtype or not fits:
        raise QuantizeError(
            "bins.record-differs",
            where=str(folder),
            input=entry.name,
            held=f"{_shape(shape)} {recorded['dtype']}",
            wanted=f"{_shape(entry.shape)} {entry.dtype}",
        )
    filled = tuple(size if wanted is None else wanted for wanted, size in zip(entry.shape, shape, strict=True))
    return InputShape(entry.name, filled, entry.dtype)


def _disorder(ordered: Sequence[Path]) -> tuple[str, str]:
    """Two neighbours in number order that are the other way round as text."""
    for first, second in itertools.pairwise(ordered):
        if first.name > second.name:
            return first.name, second.name
    return ordered[0].name, ordered[-1].name


def _places(folders: Sequence[Path], inputs: Sequence[InputShape]) -> list[Path]:
    """One folder per input, in the inputs' order."""
    for folder in folders:
        if not is_folder(folder):
            raise QuantizeError("bins.no-folder", where=str(folder))
    names = folder_names([entry.name for entry in inputs])
    if len(folders) == 1:
        below = [folders[0] / names[entry.name] for entry in inputs]
        if all(place.is_dir() for place in below) and (len(inputs) > 1 or not any(folders[0].glob("*.bin"))):
            return below
    if len(folders) != len(inputs):
        known = ", ".join(entry.name for entry in inputs)
        raise QuantizeError("bins.folders", where=str(folders[0]), count=len(folders), inputs=known)
    named = {folder.name: folder for folder in folders}
    if set(named) == set(names.values()):
        return [named[names[entry.name]] for entry in inputs]
    for entry, folder in zip(inputs, folders, strict=True):
        _, recorded = _recorded(folder, len(inputs) == 1)
        held = None if recorded is None else recorded.get("name")
        if held != entry.name and held in names:
            raise QuantizeError("bins.other-input", where=str(folder), held=str(held), input=entry.name)
    return list(folders)


def _checked(folder: Path, files: Sequence[Path], entry: InputShape) -> InputShape:
    """The input with its shape completed from the file size; every file must have exactly that size."""
    item = np.dtype(entry.dtype).itemsize
    known = math.prod(size for size in entry.shape if size is not None) * item
    open_axes = [axis for axis, size in enumerate(entry.shape) if size is None]
    size = files[0].stat().st_size
    shape = entry.shape
    if len(open_axes) == 1 and size and size % known == 0:
        shape = tuple(size // known if axis == open_axes[0] else value for axis, value in enumerate(entry.shape))
    elif open_axes:
        raise QuantizeError("bins.open-shape", where=str(folder), input=entry.name, shape=_shape(entry.shape))
    expected = math.prod(cast("tuple[int, ...]", shape)) * item
    wrong = [(path, path.stat().st_size) for path in files if path.stat().st_size != expected]
    if wrong:
        names = "; ".join(f"{path.name}: {_guess(size, expected, shape)}" for path, size in wrong[:5])
        raise QuantizeError(
            "bins.wrong-size",
            where=str(folder),
            count=len(wrong),
            of=len(files),
            expected=expected,
            shape=_shape(shape),
            dtype=entry.dtype,
            names=names,
        )
    return InputShape(entry.name, shape, entry.dtype)


def _guess(size: int, expected: int, shape: Sequence[int | None]) -> str:
    """What a file of the wrong size seems to hold."""
    batch = (shape[0] if shape else 1) or 1
    image = expected // batch
    if size == 0:
        return say("bins.guess-empty").render()
    if size * 2 == expected and batch % 2:
        return say("bins.guess-half", size=size).render()
    if size * 4 == expected and batch % 4:
        return say("bins.guess-byte", size=size).render()
    if size % image == 0:
        return say("bins.guess-batch", size=size, images=size // image, batch=batch).render()
    return say("bins.guess-other", size=size).render()


def _shape(shape: Sequence[int | None]) -> str:
    return "x".join("?" if size is None else str(size) for size in shape)


def model_inputs(path: Path) -> list[InputShape]:
    """The inputs of an ONNX model as bins feed them.

    Raises:
        QuantizeError: an input has no shape, or takes what a ``.bin`` cannot hold.
    """
    import onnx

    from pth2om.quantize.network import read_model

    model = read_model(path)
    constants = {tensor.name for tensor in model.graph.initializer}
    found = []
    for value in model.graph.input:
        if value.name in constants:
            continue
        kind = value.type.tensor_type
        try:
            dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).name
        except KeyError:  # a sequence, or a type of its own
            dtype = "?"
        if dtype not in _NUMBERS:
            raise QuantizeError("bins.input-kind", where=str(path), input=value.name, dtype=dtype)
        if not kind.HasField("shape"):
            raise QuantizeError("bins.open-shape", where=str(path), input=value.name, shape="?")
        shape = tuple(axis.dim_value if axis.dim_value > 0 else None for axis in kind.shape.dim)
        found.append(InputShape(value.name, shape, dtype))
    return found


def image_input(inputs: Sequence[InputShape], preprocess: Preprocess, where: str) -> InputShape:
    """The input that images feed: the only one, or the one the preprocessing names.

    Raises:
        QuantizeError: there are others too, or it takes no such images.
    """
    names = ", ".join(entry.name for entry in inputs)
    if len(inputs) != 1:
        raise QuantizeError("bins.one-input", where=where, inputs=names)
    (entry,) = inputs
    if preprocess.input not in (None, entry.name):
        raise QuantizeError("bins.no-such-input", where=where, name=str(preprocess.input), inputs=names)
    made = image_shape(preprocess)
    fits = len(entry.shape) == 4 and all(
        wanted in (None, size) for wanted, size in zip(entry.shape[1:], made, strict=True)
    )
    if not fits or entry.dtype != "float32":
        raise QuantizeError(
            "bins.recipe-differs",
            where=where,
            input=entry.name,
            made=f"?x{_shape(made)} float32",
            wanted=f"{_shape(entry.shape)} {entry.dtype}",
        )
    return entry
