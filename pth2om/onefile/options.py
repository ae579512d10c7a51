"""The options of a conversion, with the defaults that ``pth2om convert`` has."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from pth2om.errors import ConvertError
from pth2om.spec import OPSET_LADDER, Precision, Task
from pth2om.toolchain import choosing

DYNAMO_OPSET = 18
OWN = {
    "model": "FILE",
    "framework": "FILE",
    "output": "-o",
    "soc_version": "--soc",
    "mode": "--no-precheck",
    "input_shape": "--input-shape",
    "insert_op_conf": "--aipp",
    "dynamic_batch_size": "--dynamic-batch-size",
    "dynamic_image_size": "--dynamic-image-size",
    "dynamic_dims": "--dynamic-dims",
}
"""Flags of atc that the conversion writes itself, and the option or argument that decides each."""

_SPELLED = {
    "output": "-o",
    "fallback": "--no-fallback",
    "dynamic_batch": "--dynamic-axes",
    "precheck": "--no-precheck",
    "validate_onnx": "--no-validate-onnx",
    "validate_om": "--no-validate-om",
    "aipp_config": "--aipp",
    "recipe": "--preprocess",
    "boards": "--board",
    "dtypes": "--dtype",
}
"""Options whose argument has another name."""


@dataclass(frozen=True)
class Options:
    """What is asked of a conversion besides the file and the SoC.

    Attributes:
        name: of the files and of the model; default: from the file's name.
        output: folder of the files; default ``<name>-converted`` in the current folder.
        force: also replace files that no conversion wrote.
        template: architecture of a state dict: a Python file, or a ``TEMPLATE_NAME`` of `templates`.
        templates: folder of templates, also of ``*/net.py``; default ``templates`` where that exists.
        num_classes: handed to the template's ``build``; default: read off the weights.
        trust: whether the Python classes that the file names may run.
        task: default: guessed from the file.
        batch: images per inference; default 1, or the fixed size of an ONNX file.
        channels: instead of the number read from the weights.
        size: of the input without batch and channels; one number is a square.
        input_shape: as atc has it, ``name:1,3,224,224;other:1,80``: names and shapes of all inputs; ``-1`` where gears
            fill in a size, ``1~8`` for a range.
        dynamic_batch_size: gears of the batch axis.
        dynamic_image_size: gears of the picture: (height, width) each.
        dynamic_dims: gears of any axes: one value for each ``-1`` of `input_shape`.
        dtypes: input name -> dtype where it is not float32.
        opset: first opset tried; lower ones follow. The dynamo exporter tries 18 before the default.
        fallback: whether lower opsets follow.
        exporter: of PyTorch.
        torchscript: go through TorchScript, by ``trace``, ``script``, or whichever is right (``auto``).
        dynamic_batch: whether the ONNX file has a symbolic batch axis.
        precision: of the OM; see `pth2om.spec.PRECISION_MODES`.
        output_type: of the OM's outputs, as atc's ``--output_type``.
        precheck: ask what atc refuses, as with ``--mode=3``, before compiling.
        validate_onnx: compare ONNX with PyTorch.
        validate_om: compare the OM with ONNX and PyTorch.
        aipp: whether the OM takes uint8 pixels.
        aipp_config: of the user's own; default: derived from mean and std.
        aipp_format: what the camera or decoder delivers, where the configuration is derived.
        color, mean, std, scale, resize: how pixels become inputs: see `pth2om.spec.Preprocess`.
        recipe: a preprocessing file, or the spec of a model, that says it instead.
        atc: further arguments of atc.
        int8: quantize.
        calib: folders of images or of ``.bin`` batches (one folder per input).
        images: how many images calibrate.
        random_calibration: calibrate on random numbers: the files are right, the accuracy means nothing.
        calibration_config: an AMCT configuration.
        quantized: an ONNX file that is quantized already.
        configuration: which one of nnU-Net's plans beside the file; default the one that the folder is named after.
        dataset: folder of labelled data that the model is scored on; see `pth2om.onefile.scoring`.
        quantizer: who quantizes.
        toolchain: who compiles and runs; None: ``cann`` where `boards` are named, else ``emulator``.
        boards: ``ssh://user@host`` of the machines with an NPU that the toolchain ``cann`` uses; none: this machine.
        cann: version whose rules hold.
        save_spec: folder of specs that gets the model; None: not written.
        data_roots: folders in which the spec finds the file by its bare name.
    """

    name: str | None = None
    output: Path | None = None
    force: bool = False
    template: str | None = None
    templates: Path | None = None
    num_classes: int | None = None
    trust: bool = False
    task: Task | None = None
    batch: int | None = None
    channels: int | None = None
    size: tuple[int, ...] = ()
    input_shape: str | None = None
    dynamic_batch_size: tuple[int, ...] = ()
    dynamic_image_size: tuple[tuple[int, int], ...] = ()
    dynamic_dims: tuple[tuple[int, ...], ...] = ()
    dtypes: dict[str, str] = field(default_factory=dict)
    opset: int = OPSET_LADDER[0]
    fallback: bool = True
    exporter: Literal["torchscript", "dynamo"] = "torchscript"
    torchscript: Literal["auto", "trace", "script"] | None = None
    dynamic_batch: bool = False
    precision: Precision = "fp16"
    output_type: str = "FP32"
    precheck: bool = True
    validate_onnx: bool = True
    validate_om: bool = True
    aipp: bool = False
    aipp_config: Path | None = None
    aipp_format: Literal["RGB888_U8", "YUV420SP_U8", "XRGB8888_U8", "YUV400_U8"] = "RGB888_U8"
    color: Literal["RGB", "BGR", "GRAY"] | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    scale: float | None = None
    resize: Literal["none", "stretch", "shorter", "letterbox"] | None = None
    recipe: Path | None = None
    atc: tuple[str, ...] = ()
    int8: bool = False
    calib: tuple[Path, ...] = ()
    images: int | None = None
    random_calibration: bool = False
    calibration_config: Path | None = None
    quantized: Path | None = None
    quantizer: Literal["pth2om", "amct_onnx"] = "pth2om"
    configuration: str | None = None
    dataset: Path | None = None
    toolchain: str | None = None
    boards: tuple[str, ...] = ()
    cann: str = "9.x"
    save_spec: Path | None = None
    data_roots: tuple[Path, ...] = ()

    @property
    def opsets(self) -> tuple[int, ...]:
        """The opsets that are tried, highest first."""
        lower = tuple(opset for opset in OPSET_LADDER if opset < self.opset) if self.fallback else ()
        # The dynamo exporter writes 18, and reaches lower ones by a conversion that often fails.
        newest = (DYNAMO_OPSET,) if self.exporter == "dynamo" and self.opset == OPSET_LADDER[0] else ()
        return (*newest, self.opset, *lower)

    @property
    def quantizes(self) -> bool:
        """Whether the OM is INT8."""
        return self.int8 or self.quantized is not None

    def check(self) -> None:
        """Refuse options that contradict each other or have no effect, before any file is read.

        Raises:
            ConvertError: says which, and what to type instead.
        """
        for name in ("batch", "channels", "num_classes", "images"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConvertError("convert.below-one", option=_flag(name), value=value)
        if not 8 <= self.opset <= OPSET_LADDER[0] + 1:
            raise ConvertError("convert.opset", opset=self.opset, highest=OPSET_LADDER[0] + 1)
        if len(self.mean) != len(self.std):
            raise ConvertError("convert.mean-std", mean=len(self.mean), std=len(self.std))
        if self.input_shape is not None and (self.size or self.channels or self.batch):
            raise ConvertError("convert.shape-twice")
        self._check_gears()
        if self.boards and self.toolchain not in (None, "cann"):
            raise ConvertError("convert.needs", option="--board", other="--real")
        if not self.quantizes:
            for name in ("calib", "images", "random_calibration", "calibration_config"):
                if getattr(self, name):
                    raise ConvertError("convert.needs", option=_flag(name), other="--int8")
        elif self.quantized is None and not self.calib and not self.random_calibration:
            raise ConvertError("convert.no-calibration")
        elif self.calib and self.random_calibration:
            raise ConvertError("convert.together", one="--calib", other="--random-calibration")
        for word in self.atc:
            name = word.lstrip("-").partition("=")[0]
            if name in OWN:
                raise ConvertError("convert.own-flag", flag=f"--{name}", option=OWN[name])

    def _check_gears(self) -> None:
        names = ("dynamic_batch_size", "dynamic_image_size", "dynamic_dims")
        given = [name for name in names if getattr(self, name)]
        if len(given) > 1:
            raise ConvertError("convert.together", one=_flag(given[0]), other=_flag(given[1]))
        for name, other in (("dynamic_batch_size", "batch"), ("dynamic_image_size", "size")):
            if getattr(self, name) and getattr(self, other):
                raise ConvertError("convert.together", one=_flag(name), other=_flag(other))
        if given and self.torchscript is not None:
            raise ConvertError("convert.together", one=_flag(given[0]), other="--torchscript")

    @property
    def chosen_toolchain(self) -> str:
        """Who compiles and runs: as asked; with a board CANN, else the emulator."""
        return choosing.named(self.toolchain, self.boards)

    def to_json(self) -> dict[str, Any]:
        """What was set, as JSON values."""
        plain = Options()
        chosen = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        given = {name: value for name, value in chosen.items() if value != getattr(plain, name)}
        return {name: _json(value) for name, value in given.items()}

    def words(self) -> list[str]:
        """The options as typed behind ``pth2om convert FILE``; atc's own stand last, behind ``--``."""
        words: list[str] = []
        plain = Options()
        for entry in fields(self):
            value = getattr(self, entry.name)
            if value == getattr(plain, entry.name) or entry.name in ("atc", "data_roots"):
                continue
            flag = _SPELLED.get(entry.name, _flag(entry.name))
            if value is True or value is False:
                words.append(flag)
            elif entry.name == "dtypes":
                words += [word for name, dtype in value.items() for word in (flag, f"{name}:{dtype}")]
            elif entry.name in ("calib", "boards"):
                words += [word for each in value for word in (flag, str(each))]
            elif isinstance(value, tuple) and isinstance(value[0], tuple):
                words += [flag, ";".join(",".join(map(str, group)) for group in value)]
            elif isinstance(value, tuple):
                words += [flag, ",".join(f"{number:g}" for number in value)]
            else:
                words += [flag, str(value)]
        return [*words, *(("--", *self.atc) if self.atc else ())]


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _json(value: Any) -> Any:  # noqa: ANN401 - JSON
    if isinstance(value, tuple):
        return [_json(entry) for entry in value]
    return str(value) if isinstance(value, Path) else value
