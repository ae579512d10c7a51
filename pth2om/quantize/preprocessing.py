"""How images become a network's input: the JSON of the YOLOv6 workflow (``det_pre_params``), or a spec's table."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

from pth2om.errors import QuantizeError
from pth2om.evidence import Finding
from pth2om.files import is_file, is_folder, is_there
from pth2om.language import say
from pth2om.spec import Preprocess, Spec

_LARGEST_JSON = 1 << 22
_PARAMETERS = "det_pre_params"


@dataclass(frozen=True)
class ImageRecipe:
    """How images become batches.

    Attributes:
        preprocess: of each image.
        batch: images per batch.
        images: folder of the images, if the recipe names one.
        findings: how doubtful values were interpreted.
        spec: its spec; None for a JSON.
    """

    preprocess: Preprocess
    batch: int = 1
    images: Path | None = None
    findings: tuple[Finding, ...] = ()
    spec: Spec | None = None


def read_json_with_comments(path: Path) -> Any:  # noqa: ANN401 - JSON
    """A JSON file that may have ``#`` and ``//`` comments and trailing commas.

    Raises:
        QuantizeError: missing, too large, or not JSON; the message gives the line.
    """
    try:
        if path.stat().st_size > _LARGEST_JSON:
            raise QuantizeError("quantize.text-too-large", where=str(path))
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise QuantizeError(
            "quantize.unreadable-text", where=str(path), reason=getattr(error, "strerror", None) or str(error)
        ) from None
    try:
        return json.loads(_without_comments(text))
    except (ValueError, RecursionError) as error:
        line = getattr(error, "lineno", 1)
        reason = getattr(error, "msg", type(error).__name__)
        raise QuantizeError("quantize.not-json", where=f"{path}:{line}", reason=reason) from None


def _without_comments(text: str) -> str:
    """The text without comments and without commas before a closing bracket; line numbers stay."""
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
    """``parts`` alternates between text outside strings and strings; only the former is changed."""
    return [part if number % 2 else re.sub(r",(\s*[}\]])", r"\1", part) for number, part in enumerate(parts)]


def read_recipe(path: Path) -> ImageRecipe:
    """A preprocessing recipe: a JSON with ``det_pre_params``, or the ``model.toml`` of a spec (or its folder).

    The keys of ``det_pre_params``: ``img_root``, ``fixed_scale`` (true keeps the aspect ratio and fills the border,
    false stretches), ``batch_size``, ``des_channels`` (1 or 3), ``des_height``, ``des_width``, ``is_BGR2RGB`` (true:
    the net gets RGB), ``means`` and ``stds`` in units of the 8-bit pixel (units of 0..1 are recognized and reported).

    Raises:
        QuantizeError: missing, not readable, or a value is wrong.
        SpecError: the spec is wrong.
    """
    folder = path.parent if path.name == "model.toml" else path
    if is_file(folder / "model.toml"):
        from pth2om import spec

        read = spec.load(folder)
        if read.preprocess is None:
            raise QuantizeError("bins.no-preprocess", where=str(path))
        return ImageRecipe(read.preprocess, spec=read)
    data = read_json_with_comments(path)
    table = _parameters(data)
    if table is None:
        raise QuantizeError("bins.no-parameters", where=str(path))
    return _recipe(table, path)


def _parameters(data: object) -> Mapping[str, Any] | None:
    """The object under ``det_pre_params`` at any nesting, or the top object if it contains the keys directly."""
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
    # Means and deviations such as 0.485 and 0.229 belong to pixels of 0..1; applying them to 0..255 would be wrong.
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
    if images is not None and not is_folder(images) and is_folder(Path(str(root))):
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


def recipe_path(path: Path) -> Path:
    """A recipe's path as typed, or the spec of this name under ``models/``."""
    named = Path("models") / path
    return named if not is_there(path) and is_file(named / "model.toml") else path


def loose(
    given: Mapping[str, Any], shape: tuple[int, int, int], recipe: Mapping[str, Any] = MappingProxyType({})
) -> Preprocess:
    """A preprocessing from single values, as a command line or a form has them.

    Args:
        given: of ``color``, ``scale``, ``resize``, ``mean``, ``std``; what is not there is as usual: RGB (GRAY for one
            channel), stretched, pixels of 0..1; with a mean or deviation beyond 3, pixels of 0..255.
        shape: (channels, height, width) of the input.
        recipe: what counts where `given` says nothing.

    Raises:
        ValueError: the values contradict each other.
    """
    values = {"color": "GRAY" if shape[0] == 1 else "RGB", "resize": "stretch", **recipe, **given}
    mean, std = values.get("mean", ()), values.get("std", ())
    if "scale" not in values and any(abs(number) > 3 for number in (*mean, *std)):
        values["scale"] = 1.0  # in units of the pixel, as 123.675
    return Preprocess(**values, size=shape[1:])


def of_values(given: Mapping[str, Any], size: Sequence[int] | None, recipe: ImageRecipe | None = None) -> ImageRecipe:
    """A recipe of single values, or a recipe in which they count more.

    Args:
        given: as `loose`.
        size: height and width, or one number for both; None: the recipe's.
        recipe: where there is one.

    Raises:
        QuantizeError: the size is missing, or the values contradict each other.
    """
    own: Mapping[str, Any] = {}
    if recipe is not None:
        own = recipe.preprocess.model_dump(include=recipe.preprocess.model_fields_set - {"size"})
        size = size or recipe.preprocess.size
    if not size:
        raise QuantizeError("bins.no-size")
    height, width = size[-2:] if len(size) > 1 else (*size, *size)
    color = given.get("color", own.get("color", "RGB"))
    try:
        made = loose(given, (1 if color == "GRAY" else 3, height, width), own)
    except ValueError as error:
        reason = str(error).split("Value error, ")[-1].split(" [type=")[0]
        raise QuantizeError("bins.contradiction", reason=reason) from None
    return replace(recipe, preprocess=made) if recipe else ImageRecipe(made)


def image_shape(preprocess: Preprocess) -> tuple[int, int, int]:
    """(channels, height, width) of the output of a preprocessing."""
    channels = (1 if preprocess.color == "GRAY" else 3) + (preprocess.extra != "none")
    return (channels, *preprocess.size)
