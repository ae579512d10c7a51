"""Calibration data: images through a preprocessing into ``.bin`` batches, and such batches back into feeds.

A ``.bin`` is one whole batch, C order, no header (``ndarray.tofile``), as amct_onnx and msame read it. Those tools sort
names as text, so names are zero-padded; what lies in the folder is read in number order, with a warning where the two
differ. Everything streams: one batch is in memory at a time.
"""

from __future__ import annotations

import itertools
import json
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
from pth2om.language import say
from pth2om.spec import Preprocess

Array = npt.NDArray[np.generic]
_LARGEST_JSON = 1 << 22
_FORMAT = 1
_PARAMETERS = "det_pre_params"


@dataclass(frozen=True)
class ImageRecipe:
    """How images become batches.

    Attributes:
        preprocess: what is done to each.
        batch: images per batch.
        images: folder of the images, where the recipe names one.
        findings: how doubtful values were read.
    """

    preprocess: Preprocess
    batch: int = 1
    images: Path | None = None
    findings: tuple[Finding, ...] = ()


# ---------------------------------------------------------------------------------------------------------- recipes


def read_json_with_comments(path: Path) -> Any:  # noqa: ANN401 - JSON
    """A JSON file that may carry ``#`` and ``//`` comments and trailing commas.

    Raises:
        QuantizeError: missing, too large, or not JSON; with its line.
    """
    try:
        if path.stat().st_size > _LARGEST_JSON:
            raise QuantizeError("quantize.text-too-large", where=str(path))
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise QuantizeError("quantize.unreadable-text", where=str(path), reason=str(error)) from None
    try:
        return json.loads(_without_comments(text))
    except (ValueError, RecursionError) as error:
        line = getattr(error, "lineno", 1)
        reason = getattr(error, "msg", type(error).__name__)
        raise QuantizeError("quantize.not-json", where=f"{path}:{line}", reason=reason) from None


def _without_comments(text: str) -> str:
    """Comments cut off and commas before a closing bracket removed; line numbers stay."""
    plain = "\n".join(_line_without_comment(line) for line in text.split("\n"))
    parts = re.split(r'("(?:[^"\\\n]|\\.)*")', plain)
    return "".join(_no_trailing_commas(parts))


def _line_without_comment(line: str) -> str:
    inside, escaped = False, False
    for position, sign in enumerate(line):
        if inside:
            inside = escaped or sign != '"'
            escaped = sign == "\\" and not escaped
        elif sign == '"':
            inside = True
        elif sign == "#" or line.startswith("//", position):
            return line[:position]
    return line


def _no_trailing_commas(parts: Sequence[str]) -> list[str]:
    """``parts`` alternates text outside strings with strings; only the former is changed."""
    return [part if number % 2 else re.sub(r",(\s*[}\]])", r"\1", part) for number, part in enumerate(parts)]


def read_recipe(path: Path) -> ImageRecipe:
    """A preprocessing recipe: a JSON with ``det_pre_params``, or the ``model.toml`` of a spec (or its folder).

    The keys of ``det_pre_params``: ``img_root``, ``fixed_scale`` (true keeps the aspect ratio and fills the border,
    false stretches), ``batch_size``, ``des_channels`` (1 or 3), ``des_height``, ``des_width``, ``is_BGR2RGB`` (true:
    the net gets RGB), ``means`` and ``stds`` in units of the 8-bit pixel (0..1 units are recognized and told).

    Raises:
        QuantizeError: missing, not readable, or a value is wrong.
        SpecError: the spec is wrong.
    """
    folder = path.parent if path.name == "model.toml" else path
    if (folder / "model.toml").is_file():
        from pth2om import spec

        read = spec.load(folder)
        if read.preprocess is None:
            raise QuantizeError("bins.no-preprocess", where=str(path))
        return ImageRecipe(read.preprocess)
    data = read_json_with_comments(path)
    table = _parameters(data)
    if table is None:
        raise QuantizeError("bins.no-parameters", where=str(path))
    return _recipe(table, path)


def _parameters(data: object) -> Mapping[str, Any] | None:
    """The object under ``det_pre_params``, wherever it is nested; or the top object when it holds the keys itself."""
    if not isinstance(data, dict):
        return None
    if isinstance(data.get(_PARAMETERS), dict):
        return cast("Mapping[str, Any]", data[_PARAMETERS])
    if "des_height" in data:
        return data
    for value in data.values():
        found = _parameters(value)
        if found is not None:
            return found
    return None


_KEYS = (
    "img_root",
    "fixed_scale",
    "batch_size",
    "des_channels",
    "des_height",
    "des_width",
    "is_BGR2RGB",
    "means",
    "stds",
)


def _recipe(table: Mapping[str, Any], path: Path) -> ImageRecipe:
    where = str(path)
    findings = [
        Finding("bins.unknown-key", "warning", say("bins.unknown-key", name=str(name), known=", ".join(_KEYS)))
        for name in table
        if name not in _KEYS
    ]
    channels = _whole(table, "des_channels", 3, where)
    if channels not in (1, 3):
        raise QuantizeError("bins.wrong-value", where=where, name="des_channels", value=str(channels))
    size = (_whole(table, "des_height", None, where), _whole(table, "des_width", None, where))
    means = _numbers(table, "means", [0.0] * channels, channels, where)
    stds = _numbers(table, "stds", [1.0] * channels, channels, where)
    if any(value <= 0 for value in stds):
        raise QuantizeError("bins.wrong-value", where=where, name="stds", value=str(stds))
    # Means and deviations such as 0.485 and 0.229 belong to pixels of 0..1; applied to 0..255 they would be a blunder.
    unit = max(stds) < 1 and max(abs(value) for value in means) <= 1
    if unit:
        findings.append(Finding("bins.unit-pixels", "warning", say("bins.unit-pixels")))
    color = "GRAY" if channels == 1 else ("RGB" if _truth(table, "is_BGR2RGB", True, where) else "BGR")
    preprocess = Preprocess(
        color=cast("Any", color),
        resize="letterbox" if _truth(table, "fixed_scale", False, where) else "stretch",
        size=size,
        scale=255.0 if unit else 1.0,
        mean=tuple(means),
        std=tuple(stds),
    )
    root = table.get("img_root")
    if root is not None and not isinstance(root, str):
        raise QuantizeError("bins.wrong-value", where=where, name="img_root", value=str(root))
    images = None if root is None else (path.parent / root)
    if images is not None and not images.is_dir() and Path(str(root)).is_dir():
        images = Path(str(root))
    return ImageRecipe(preprocess, _whole(table, "batch_size", 1, where), images, tuple(findings))


def _whole(table: Mapping[str, Any], name: str, default: int | None, where: str) -> int:
    value = table.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 1 << 16:
        raise QuantizeError("bins.wrong-value", where=where, name=name, value=str(value))
    return value


def _truth(table: Mapping[str, Any], name: str, default: bool, where: str) -> bool:
    value = table.get(name, default)
    if value not in (True, False, 0, 1):
        raise QuantizeError("bins.wrong-value", where=where, name=name, value=str(value))
    return bool(value)


def _numbers(table: Mapping[str, Any], name: str, default: list[float], count: int, where: str) -> list[float]:
    value = table.get(name, default)
    values = [value] * count if isinstance(value, int | float) and not isinstance(value, bool) else value
    plain = isinstance(values, list) and all(
        isinstance(one, int | float) and not isinstance(one, bool) and math.isfinite(one) for one in values
    )
    if not plain or len(values) != count:
        raise QuantizeError("bins.wrong-value", where=where, name=name, value=str(value))
    return [float(one) for one in values]


# ----------------------------------------------------------------------------------------------------------- images


class ImageBatches:
    """The images of a folder, preprocessed, one batch at a time; the last batch is filled up with its last image.

    Args:
        folder: images, in order of their names with numbers compared as numbers.
        preprocess: what is done to each.
        batch: images per batch.
        name: input they feed.
        limit: at most so many images.

    Raises:
        QuantizeError: no folder, or no image in it.
    """

    def __init__(
        self, folder: Path, preprocess: Preprocess, batch: int, name: str = "input", limit: int | None = None
    ) -> None:
        from pth2om.data.sources import is_image

        if not folder.is_dir():
            raise QuantizeError("bins.no-folder", where=str(folder))
        self.files = sorted((path for path in folder.iterdir() if is_image(path)), key=_natural)[:limit]
        if not self.files:
            raise QuantizeError("bins.no-images", where=str(folder))
        self.preprocess, self.batch, self.name = preprocess, batch, name

    def __len__(self) -> int:
        return -(-len(self.files) // self.batch)

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
    total = len(batches) if isinstance(batches, Sized) else None
    digits = max(4, len(str(total - 1))) if total else 6
    temporary = destination.with_name(f".{destination.name}.{uuid.uuid4().hex}")
    entries: dict[str, dict[str, Any]] = {}
    count = 0
    try:
        for count, batch in enumerate(batches, 1):
            for name, array in batch.items():
                value = np.ascontiguousarray(array)
                entry = entries.setdefault(name, {"dtype": value.dtype.name, "shape": list(value.shape)})
                if entry["shape"] != list(value.shape) or entry["dtype"] != value.dtype.name:
                    raise QuantizeError("bins.uneven", where=name, batch=count - 1)
                folder = temporary / safe_name(name) if len(batch) > 1 else temporary
                folder.mkdir(parents=True, exist_ok=True)
                value.tofile(folder / f"batch_{count - 1:0{digits}d}.bin")
        if count == 0:
            raise QuantizeError("quantize.no-data")
        record = destination.with_name(f"{destination.name}.json")
        _write_record(record, entries, count)
        if destination.exists():
            destination.rmdir()
        temporary.replace(destination)
    except OSError as error:
        raise QuantizeError("quantize.not-writable", where=str(destination), reason=str(error.strerror)) from None
    finally:
        import shutil

        shutil.rmtree(temporary, ignore_errors=True)
    folders = {name: destination / safe_name(name) if len(entries) > 1 else destination for name in entries}
    return BinFolder(folders, record, count)


def safe_name(name: str) -> str:
    """An input's name as a folder's."""
    return re.sub(r"[^A-Za-z0-9_.\-]", "_", name).lstrip(".") or "input"


def _write_record(path: Path, entries: Mapping[str, Mapping[str, Any]], count: int) -> None:
    inputs = [{"name": name, "folder": safe_name(name), **entry} for name, entry in entries.items()]
    text = json.dumps({"format": _FORMAT, "batches": count, "inputs": inputs}, indent=1, ensure_ascii=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    temporary.write_text(text + "\n", encoding="utf-8")
    temporary.replace(path)


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
        findings: names that the vendor tool would read in another order.
    """

    inputs: tuple[InputShape, ...]
    files: Mapping[str, Sequence[Path]]
    findings: list[Finding] = field(default_factory=list)

    def __len__(self) -> int:
        return len(next(iter(self.files.values())))

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
        folders: one per input, in the inputs' order; or one folder with a sub-folder per input.
        inputs: what the model takes.
        limit: at most so many batches.

    Raises:
        QuantizeError: no bins, different numbers per input, or files that are not exactly one batch: each named with
            what it seems to hold.
    """
    places = _places(folders, inputs)
    batches = BinBatches((), {})
    shapes, files = [], {}
    for entry, folder in zip(inputs, places, strict=True):
        found = [path for path in folder.iterdir() if path.suffix == ".bin" and path.is_file()]
        if not found:
            raise QuantizeError("bins.no-bins", where=str(folder))
        ordered = sorted(found, key=_natural)
        if ordered != sorted(found, key=lambda path: path.name):
            first, second = _disorder(ordered)
            message = say("bins.text-order", folder=str(folder), first=first, second=second)
            batches.findings.append(Finding("bins.text-order", "warning", message))
        shapes.append(_checked(folder, ordered, entry))
        files[entry.name] = ordered[:limit]
    _check_record(folders[0], shapes)
    counts = {name: len(paths) for name, paths in files.items()}
    if len(set(counts.values())) > 1:
        text = ", ".join(f"{name}: {count}" for name, count in counts.items())
        raise QuantizeError("bins.uneven-counts", where=str(folders[0]), counts=text)
    batches.inputs, batches.files = tuple(shapes), files
    return batches


def _check_record(folder: Path, inputs: Sequence[InputShape]) -> None:
    """Refuse bins whose record, where one lies beside them, names another dtype: sizes alone cannot tell."""
    record = folder.with_name(f"{folder.name}.json")
    if not record.is_file():
        return
    data = read_json_with_comments(record)
    entries = data.get("inputs", []) if isinstance(data, dict) else []
    said = [entry.get("dtype") for entry in entries if isinstance(entry, dict)]
    for entry, dtype in zip(inputs, said, strict=False):
        if dtype != entry.dtype:
            raise QuantizeError(
                "bins.record-differs", where=str(record), input=entry.name, dtype=str(dtype), wanted=entry.dtype
            )


def _disorder(ordered: Sequence[Path]) -> tuple[str, str]:
    """Two neighbours in number order that are the other way round as text."""
    for first, second in itertools.pairwise(ordered):
        if first.name > second.name:
            return first.name, second.name
    return ordered[0].name, ordered[-1].name


def _places(folders: Sequence[Path], inputs: Sequence[InputShape]) -> list[Path]:
    for folder in folders:
        if not folder.is_dir():
            raise QuantizeError("bins.no-folder", where=str(folder))
    if len(folders) == len(inputs):
        below = folders[0] / safe_name(inputs[0].name)
        return [below] if len(inputs) == 1 and below.is_dir() and not any(folders[0].glob("*.bin")) else list(folders)
    if len(folders) == 1:
        below_all = [folders[0] / safe_name(entry.name) for entry in inputs]
        if all(place.is_dir() for place in below_all):
            return below_all
    names = ", ".join(entry.name for entry in inputs)
    raise QuantizeError("bins.folders", where=str(folders[0]), count=len(folders), inputs=names)


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
    batch = shape[0] or 1
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
    """The inputs of an ONNX model as bins feed them."""
    import onnx

    from pth2om.quantize.network import read_model

    model = read_model(path)
    constants = {tensor.name for tensor in model.graph.initializer}
    found = []
    for value in model.graph.input:
        if value.name in constants:
            continue
        kind = value.type.tensor_type
        shape = tuple(axis.dim_value if axis.dim_value > 0 else None for axis in kind.shape.dim)
        found.append(InputShape(value.name, shape, onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).name))
    return found


def recipe_path(path: Path) -> Path:
    """A recipe's path as typed, or the spec of that name under ``models/``."""
    named = Path("models") / path
    return named if not path.exists() and (named / "model.toml").is_file() else path


def image_shape(preprocess: Preprocess) -> tuple[int, int, int]:
    """(channels, height, width) that a preprocessing makes."""
    channels = (1 if preprocess.color == "GRAY" else 3) + (preprocess.extra != "none")
    return (channels, *preprocess.size)
