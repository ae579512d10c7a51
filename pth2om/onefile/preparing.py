"""From a file and options to a spec: what the file says, what the options add, and the words about both."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from pth2om import spec as specs
from pth2om.checkpoint.formats import Kind, kind_of
from pth2om.drafting.asked import Asked
from pth2om.drafting.found import Found, from_checkpoint, from_onnx, with_net
from pth2om.drafting.nnunet import with_plans
from pth2om.drafting.start import new_spec, write_model
from pth2om.errors import CheckpointError, ConvertError, SpecError
from pth2om.files import is_file, is_folder
from pth2om.language import Message, joined, say
from pth2om.onefile import templates
from pth2om.onefile.options import Options
from pth2om.onefile.scoring import Scored, dataset_for, dataset_name
from pth2om.onefile.shapes import Shapes, shapes_of, sizes_of
from pth2om.spec import Aipp, Export, Input, Preprocess, Quantize, Spec, Variant
from pth2om.spec.torchscript import TorchScript

if TYPE_CHECKING:
    from pth2om.aipp import AippConfig

_LONGEST_NAME = 80
CALIBRATION = "calibration"
"""Folder of the ``.bin`` batches that are made of images."""
Inputs = tuple[tuple[str, tuple[int, ...], str, Message | None], ...]


@dataclass(frozen=True)
class Prepared:
    """A conversion that can begin.

    Attributes:
        file: the source.
        name: of the files and of the model.
        kind: what the source is.
        found: what it says.
        asked: what the options add.
        spec: of the model, in the scratch folder.
        said: what was found and assumed, in words.
        net: template, where the file needs one.
        manifests: of the dataset that it is scored on, by name; none without `Options.dataset`.
        beside: further files that a saved spec names: name -> content.
    """

    file: Path
    name: str
    kind: Kind
    found: Found
    asked: Asked
    spec: Spec
    said: tuple[Message, ...]
    net: Path | None
    manifests: Mapping[str, str] = field(default_factory=dict)
    beside: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def variants(self) -> tuple[Variant, ...]:
        """One; with gears one a gear, all of which one OM serves."""
        return self.spec.variants


def name_for(file: Path, options: Options) -> str:
    """Name of the files: the option's, or the source's with what a model's name cannot have left out.

    Raises:
        ConvertError: the option's name cannot name a model.
    """
    if options.name is not None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.\-]*", options.name):
            raise ConvertError("convert.bad-name", name=options.name)
        return options.name
    name = re.sub(r"[^A-Za-z0-9_\-]+", "_", file.stem)[:_LONGEST_NAME].strip("_-")
    return name or "model"


def prepare(file: Path, options: Options, scratch: Path) -> Prepared:
    """Read what the file says and draft the spec.

    Args:
        file: checkpoint, TorchScript or ONNX; recognized by its content.
        options: checked.
        scratch: folder of specs for the drafted one; it gets a copy of nothing.

    Raises:
        CheckpointError: the file is no such thing, or needs a template or trust.
        ConvertError: the options contradict the file or each other.
    """
    name = name_for(file, options)
    kind = kind_of(file)
    found = from_onnx(file, None) if kind == "onnx" else from_checkpoint(file, kind, None)
    said: list[Message] = [say("convert.file", file=file.name, kind=say(f"convert.kind-{_family(kind)}").render())]
    net = _template(file, kind, found, options, said)
    if net is not None:
        given = None if options.num_classes is None else _classes(options.num_classes)
        found = with_net(found, file, net)
        if found.problem is not None:
            raise found.problem
        found = dataclasses.replace(found, classes=given or found.classes, guessed=found.guessed and given is None)
    elif options.num_classes is not None:
        raise ConvertError("convert.needs", option="--num-classes", other="--template")
    scored = _scored(options, name, found, said)
    volumes = scored is not None and scored.volumes
    # A size that is given needs no plans; volumes need them whatever the size.
    wanted = volumes or (kind != "onnx" and not options.size and options.input_shape is None)
    planned = with_plans(found, file, None, options.configuration) if wanted or options.configuration else None
    if planned is not None and kind != "onnx":
        found = planned.found
        said += planned.said
    inputs, shapes = _inputs(file, kind, found, options)
    batch = shapes.batch
    found = dataclasses.replace(found, inputs=inputs, batch=batch)
    written = _written(shapes, inputs, options)
    for entry, _, dtype, comment in inputs:
        sizes = written[entry].replace(",", ", ")
        said.append(say("convert.input", name=entry, shape=sizes, dtype=dtype))
        if comment is not None:
            said.append(say("convert.input-from", text=" ".join(comment.render().split())))
    if shapes.gears is not None:
        said.append(say(f"convert.{'range' if shapes.gears.ranged else 'gears'}", count=len(shapes.gears.points)))
    asked = _asked(options, inputs, shapes, kind, net)
    if scored is not None:
        asked = dataclasses.replace(asked, task=scored.task)
    beside: dict[str, bytes] = {}
    if planned is not None and asked.preprocess is None and inputs[0][1] == planned.found.inputs[0][1]:
        asked, beside = dataclasses.replace(asked, volume=planned.volume), planned.beside
    asked, told = _calibrated_on_images(asked, options, inputs[0][0], batch, scratch)
    said += told
    manifests: dict[str, str] = {}
    if scored is not None:
        if scored.volumes and asked.volume is None:
            raise ConvertError("convert.volumes-need", where=str(options.dataset))
        if not scored.volumes and asked.preprocess is None:
            raise ConvertError("convert.images-need", where=str(options.dataset))
        table, manifests = scored.dataset, {scored.dataset.name: scored.manifest}
        asked = dataclasses.replace(asked, datasets=(table,))
    spec = _drafted(name, file, kind, found, asked, scratch, manifests, beside)
    return Prepared(file, name, kind, found, asked, spec, tuple(said), net, manifests, beside)


def _scored(options: Options, name: str, found: Found, said: list[Message]) -> Scored | None:
    """How the model is scored, where a folder of labelled data is named."""
    if options.dataset is None:
        return None
    classes = None if found.classes is None else found.classes[0]
    scored = dataset_for(dataset_name(name), options.dataset, options.task, found.task[0], classes)
    said += scored.said
    return scored


def save_spec(prepared: Prepared, options: Options, calibration: Path | None) -> tuple[Path, ...]:
    """Write the model into a repository of models, with a copy of its template and AIPP configuration.

    Args:
        prepared: the conversion.
        options: name the folder of specs.
        calibration: where the batches that were made of images lie now.

    Returns:
        The files, the spec first.

    Raises:
        CheckpointError: it exists already, or cannot be written.
    """
    from pth2om.checkpoint import net_files

    assert options.save_spec is not None
    folder = (options.save_spec / prepared.name).absolute()
    asked = prepared.asked
    beside = dict(prepared.beside)
    if prepared.net is not None:
        files = net_files(prepared.net)
        together = all(file.parent == prepared.net.absolute().parent for file in files)
        if together and all(file == prepared.net.absolute() or file.name != "net.py" for file in files):
            beside |= {file.name: file.read_bytes() for file in files[1:]}
            beside["net.py"] = prepared.net.read_bytes()
            asked = dataclasses.replace(asked, net=folder / "net.py")
    if asked.aipp is not None and asked.aipp.config is not None:
        beside["aipp.cfg"] = Path(asked.aipp.config).read_bytes()
        asked = dataclasses.replace(asked, aipp=Aipp(config="aipp.cfg"))
    if calibration is not None and asked.quantize is not None:
        asked = dataclasses.replace(asked, quantize=asked.quantize.model_copy(update={"bins": (str(calibration),)}))
    return write_model(
        prepared.name,
        prepared.file,
        prepared.kind,
        prepared.found,
        asked,
        models=options.save_spec,
        data_roots=options.data_roots,
        beside=beside,
        manifests=prepared.manifests,
    )


def check_save(name: str, options: Options) -> None:
    """Refuse a model that exists already, before the conversion and not after it."""
    if options.save_spec is not None:
        new_spec(name, options.save_spec)


# --- the architecture -------------------------------------------------------------------------------------------------


def _family(kind: Kind) -> str:
    return kind if kind in ("onnx", "torchscript", "safetensors") else "checkpoint"


def _template(file: Path, kind: Kind, found: Found, options: Options, said: list[Message]) -> Path | None:
    """The template that the file is loaded into; None where it brings its own architecture."""
    if not found.needs or (found.needs == "trust" and options.trust):
        said.append(say("convert.own-architecture" if kind != "onnx" else "convert.is-reference"))
        if options.template is not None:
            said.append(say("convert.template-unused", template=options.template))
        return None
    if options.template is not None:
        path = templates.chosen(options.template, options.templates)
        said.append(say("convert.template", name=templates.title_of(path) or path.name, file=str(path)))
        return path
    if found.needs == "trust":
        raise CheckpointError("convert.whole-module", where=str(file), classes=found.foreign)
    folder = options.templates or templates.DEFAULT_FOLDER
    count = len(found.layout)
    if options.templates is None and not is_folder(folder):
        raise CheckpointError("convert.state-dict", where=str(file), count=count, first="; ".join(found.layout[:3]))
    if options.templates is None:
        said.append(say("convert.default-templates", folder=str(folder)))
    tried = templates.tried(file, folder)
    names = ", ".join(one.name for one in tried.fitting)
    if len(tried.fitting) == 1:
        (only,) = tried.fitting
        told = len(tried.problems) + 1
        said.append(say("convert.template-fits", name=only.name, file=str(only.path), count=told, folder=str(folder)))
        return only.path
    if tried.fitting:
        raise CheckpointError("convert.templates-fit", where=str(file), names=names, folder=str(folder))
    if not tried.problems:
        raise ConvertError("convert.no-templates", where=str(folder))
    reasons = joined((joined((one.name, why.render()), ": ") for one, why in tried.problems[:5]), "; ") or "-"
    raise CheckpointError("convert.no-template-fits", where=str(file), folder=str(folder), reasons=reasons)


def _classes(number: int) -> tuple[int, Message]:
    return number, say("convert.classes-given")


# --- inputs -----------------------------------------------------------------------------------------------------------


def _inputs(file: Path, kind: Kind, found: Found, options: Options) -> tuple[Inputs, Shapes]:
    """The inputs as the options have them, and the shapes of all gears."""
    inputs = found.inputs
    if options.channels is not None or options.size:
        inputs = (_resized(inputs[0], options), *inputs[1:])
    batch = options.batch or found.batch
    shapes = shapes_of(options, {name: (batch, *sizes) for name, sizes, _, _ in inputs})
    names = [entry[0] for entry in inputs]
    if kind == "onnx" and sorted(shapes.inputs) != sorted(names):
        given = ", ".join(shapes.inputs)
        raise ConvertError("convert.input-names", where=str(file), given=given, names=", ".join(names))
    known = {name: (sizes, dtype, why) for name, sizes, dtype, why in inputs}
    order = names if kind == "onnx" else list(shapes.inputs)
    sized: list[tuple[str, tuple[int, ...], str, Message | None]] = []
    for name in order:
        sizes, dtype, why = known.get(name, ((), "float32", None))
        # What was read off the file is said only where it holds.
        same = options.input_shape is None and sizes == shapes.inputs[name][1:]
        sized.append((name, shapes.inputs[name][1:], dtype, why if same else None))
    return _typed(tuple(sized), options), shapes


def _written(shapes: Shapes, inputs: Inputs, options: Options) -> dict[str, str]:
    """The sizes of each input as text, with -1 or a range where gears leave one open."""
    if shapes.gears is None:
        return {name: ",".join(map(str, sizes)) for name, sizes in shapes.inputs.items()}
    if options.input_shape is not None:
        return {name: ",".join(sizes) for name, sizes in sizes_of(options.input_shape).items()}
    entries = [Input.model_construct(name=name, shape=sizes) for name, sizes, _, _ in inputs]
    parts = shapes.gears.input_shape(entries, shapes.batch).split(";")
    return {name: part.rpartition(":")[2] for part, (name, *_) in zip(parts, inputs, strict=True)}


def _resized(entry: tuple[str, tuple[int, ...], str, Message | None], options: Options) -> Any:  # noqa: ANN401 - a field of the spec, of any kind
    name, shape, dtype, comment = entry
    channels, sizes = shape[:1], shape[1:]
    if options.channels is not None:
        channels = (options.channels,)
    if options.size:
        sizes = options.size * max(1, len(sizes)) if len(options.size) == 1 else options.size
        comment = None
    return name, (*channels, *sizes), dtype, comment


def _typed(inputs: Inputs, options: Options) -> Inputs:
    names = [entry[0] for entry in inputs]
    allowed = get_args(Input.model_fields["dtype"].annotation)
    for name, dtype in options.dtypes.items():
        if name not in names:
            raise ConvertError("convert.dtype-name", name=name, names=", ".join(names))
        if dtype not in allowed:
            raise ConvertError("convert.dtype", dtype=dtype, allowed=", ".join(allowed))
    return tuple((name, shape, options.dtypes.get(name, dtype), why) for name, shape, dtype, why in inputs)


# --- the user's part of the spec --------------------------------------------------------------------------------------


def _asked(options: Options, inputs: Inputs, shapes: Shapes, kind: Kind, net: Path | None) -> Asked:
    preprocess = _preprocess(options, inputs)
    aipp = options.aipp or options.aipp_config is not None
    extra = [f"--output_type={options.output_type}"] if options.output_type != "FP32" else []
    variant: dict[str, Any] = {"precision": "int8" if options.quantizes else options.precision}
    if shapes.gears is None or "batch" not in shapes.gears.points[0]:
        variant["batch"] = shapes.batch
    variant |= {"gears": shapes.gears} if shapes.gears is not None else {}
    variant |= {"aipp": True} if aipp else {}
    atc = (*extra, *options.atc)
    variant |= {"atc": atc} if atc else {}
    table: Aipp | None = None
    if options.aipp_config is not None:
        if not is_file(options.aipp_config):
            raise ConvertError("convert.no-file", where=str(options.aipp_config), option="--aipp")
        table = Aipp(config=str(options.aipp_config.absolute()))
    elif aipp:
        table = Aipp(input_format=options.aipp_format)
    export: dict[str, Any] = {"opsets": options.opsets} if options.opsets != specs.OPSET_LADDER else {}
    export |= {"exporter": options.exporter} if options.exporter != "torchscript" else {}
    export |= {"dynamic_batch": True} if options.dynamic_batch else {}
    return Asked(
        task=options.task,
        net=net.absolute() if net is not None else None,
        num_classes=options.num_classes,
        ranges={} if preprocess is None else {inputs[0][0]: _range(preprocess)},
        variants=(Variant(**variant),),
        export=Export(**export) if export else None,
        preprocess=preprocess,
        aipp=table,
        quantize=_quantize(options),
        torchscript=_torchscript(options, kind, shapes),
        axes=shapes.axes,
    )


def _torchscript(options: Options, kind: Kind, shapes: Shapes) -> TorchScript | None:
    """The stage of TorchScript, for a file that is TorchScript and where it is asked for; a program has one shape."""
    if options.exporter == "dynamo" and (kind == "torchscript" or options.torchscript is not None):
        raise ConvertError("convert.dynamo-torchscript")
    if options.torchscript is not None:
        if kind == "onnx":
            raise ConvertError("convert.needs-pytorch", option="--torchscript")
        return TorchScript(method=options.torchscript)
    return TorchScript(method="auto") if kind == "torchscript" and shapes.gears is None else None


def _quantize(options: Options) -> Quantize | None:
    if not options.quantizes:
        return None
    table: dict[str, Any] = {"images": options.images} if options.images is not None else {}
    if options.calib:
        table["bins"] = tuple(str(folder.absolute()) for folder in options.calib)
    if options.random_calibration:
        table["random"] = True
    for name, path, option in (
        ("config", options.calibration_config, "--calibration-config"),
        ("onnx", options.quantized, "--quantized"),
    ):
        if path is not None:
            if not is_file(path):
                raise ConvertError("convert.no-file", where=str(path), option=option)
            table[name] = str(path.absolute())
    if options.quantizer != "pth2om":
        table["tool"] = options.quantizer
    return Quantize(**table)


def _calibrated_on_images(
    asked: Asked, options: Options, fed: str, batch: int, scratch: Path
) -> tuple[Asked, list[Message]]:
    """Images become the ``.bin`` batches that ``pth2om bins`` makes of them."""
    from pth2om.quantize.bins import ImageBatches, write_bins

    if not options.calib:
        return asked, []
    for folder in options.calib:
        if not is_folder(folder):
            raise ConvertError("convert.no-folder", where=str(folder))
        if any(folder.glob("*.bin")) or any(folder.glob("*/*.bin")):
            return asked, []
    assert asked.quantize is not None
    if asked.preprocess is None:
        raise ConvertError("convert.images-need", where=str(options.calib[0]))
    if len(options.calib) > 1:
        raise ConvertError("convert.one-image-folder", where=str(options.calib[1]))
    images = ImageBatches(options.calib[0], asked.preprocess, batch, fed, asked.quantize.images)
    made = write_bins(images, scratch / CALIBRATION)
    table = asked.quantize.model_copy(update={"bins": (str(made.folders[fed]),)})
    told = [finding.message for finding in images.findings]
    told.append(say("convert.calibrates", count=len(images.images), folder=str(options.calib[0])))
    return dataclasses.replace(asked, quantize=table), told


def _preprocess(options: Options, inputs: Inputs) -> Preprocess | None:
    """How pixels become the first input, where the options say it."""
    from pth2om.quantize.preprocessing import loose, read_recipe, recipe_path

    shape = inputs[0][1]
    given = {name: getattr(options, name) for name in ("color", "scale", "resize", "mean", "std")}
    given = {name: value for name, value in given.items() if value not in (None, ())}
    recipe: Mapping[str, Any] = {}
    if options.recipe is not None:
        table = read_recipe(recipe_path(options.recipe)).preprocess
        recipe = table.model_dump(include=table.model_fields_set - {"size", "input"})
    elif not given and options.aipp_config is not None:
        recipe = _of_aipp(options.aipp_config, shape)
    elif not given:
        if options.aipp:
            raise ConvertError("convert.aipp-needs")
        return None
    if len(shape) != 3:
        raise ConvertError("convert.no-image", name=inputs[0][0], shape=str(list(shape)))
    try:
        return loose(given, (shape[0], shape[1], shape[2]), recipe)
    except ValueError as error:
        raise ConvertError("convert.contradiction", reason=_reason(error)) from None


def _of_aipp(path: Path, shape: Sequence[int]) -> Mapping[str, Any]:
    """The preprocessing that a configuration of mean and reciprocal says; with a colour conversion it says none."""
    from pth2om.aipp import read_config
    from pth2om.aipp.csc import settings

    if len(shape) != 3 or not is_file(path):
        return {}
    config: AippConfig = read_config(path)
    op = config.op(0)
    found = settings(op, (shape[1], shape[2]))
    if found.csc is not None or not all(found.reciprocal[: shape[0]]):
        raise ConvertError("convert.aipp-conversion", where=str(path))
    channels = 1 if shape[0] == 1 else 3
    mean = tuple(found.mean[index] + found.min[index] for index in range(channels))
    std = tuple(1.0 / found.reciprocal[index] for index in range(channels))
    color = "GRAY" if channels == 1 else "BGR" if found.swap else "RGB"
    return {"color": color, "scale": 1.0, "mean": mean, "std": std}


def _range(preprocess: Preprocess) -> tuple[float, float]:
    """What the normalization makes of 0..255."""
    channels = len(preprocess.mean) or 1
    pairs = zip(preprocess.mean or (0.0,) * channels, preprocess.std or (1.0,) * channels, strict=True)
    ends = [((pixel / preprocess.scale) - mean) / std for mean, std in pairs for pixel in (0.0, 255.0)]
    return math.floor(min(ends) * 1000) / 1000, math.ceil(max(ends) * 1000) / 1000


def _drafted(
    name: str,
    file: Path,
    kind: Kind,
    found: Found,
    asked: Asked,
    scratch: Path,
    manifests: Mapping[str, str],
    beside: Mapping[str, bytes],
) -> Spec:
    try:
        write_model(name, file, kind, found, asked, models=scratch / "models", manifests=manifests, beside=beside)
        return specs.load(scratch / "models" / name)
    except SpecError as error:
        raise ConvertError("convert.contradiction", reason=error.message.render()) from None


def _reason(error: ValueError) -> str:
    return str(error).split("Value error, ")[-1].split(" [type=")[0]
