"""The command line of ``atc``, typed: what every command line in pth2om is built from.

`AtcOptions` has one field for each flag that the CANN 9 ``atc`` knows ("ATC guide, command-line options"). It only says
what is asked; whether atc would take it is the front end's business (`pth2om.toolchain.emulator.front_end`).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

FRAMEWORK_CAFFE, FRAMEWORK_MINDSPORE, FRAMEWORK_TENSORFLOW, FRAMEWORK_ONNX = 0, 1, 3, 5
"""Numbers of ``--framework``."""


@dataclass(frozen=True)
class AtcOptions:
    """What to ask of ``atc``. ``None`` leaves a flag away, so that atc's own default holds.

    ``bool`` fields are written ``true``/``false``, ``int`` fields as numbers (the 0/1 switches too), all others as they
    stand. Paths are given as ``str``; ``output`` has no ``.om``, atc appends it.

    Attributes:
        model: the ONNX file (or another framework's).
        output: path of the OM without its suffix.
        soc_version: ``Ascend310B1``, ``Ascend310P3``, ...
        framework: 5 is ONNX.
        mode: 0 model to OM, 1 to JSON, 3 pre-check only, 6 OM information; None is 0.
        input_shape: ``name:1,3,640,640;other:1,80``.
        output_type: of all outputs, ``FP32`` by default; or ``node:index:TYPE;...``.
        op_select_implmode: ``high_precision`` by default here; atc's own default is ``high_performance``.
        insert_op_conf: the AIPP configuration file.
        extra: further arguments as they are (flags of a newer CANN), written last.
    """

    model: str | None = None
    output: str | None = None
    soc_version: str | None = None
    framework: int | None = FRAMEWORK_ONNX
    mode: int | None = None
    weight: str | None = None
    om: str | None = None
    json: str | None = None
    singleop: str | None = None
    # inputs and outputs
    input_format: str | None = None
    input_shape: str | None = None
    input_shape_range: str | None = None
    input_hint_shape: str | None = None
    dynamic_batch_size: str | None = None
    dynamic_image_size: str | None = None
    dynamic_dims: str | None = None
    out_nodes: str | None = None
    output_type: str | None = "FP32"
    input_fp16_nodes: str | None = None
    is_input_adjust_hw_layout: str | None = None
    is_output_adjust_hw_layout: str | None = None
    insert_op_conf: str | None = None
    # precision
    precision_mode: str | None = None
    precision_mode_v2: str | None = None
    op_select_implmode: str | None = "high_precision"
    optypelist_for_implmode: str | None = None
    op_precision_mode: str | None = None
    modify_mixlist: str | None = None
    keep_dtype: str | None = None
    customize_dtypes: str | None = None
    allow_hf32: bool | None = None
    is_weight_clip: int | None = None
    # compression and quantization
    enable_small_channel: int | None = None
    enable_compress_weight: bool | None = None
    compress_weight_conf: str | None = None
    compression_optimize_conf: str | None = None
    cal_conf: str | None = None
    sparsity: int | None = None
    quant_dumpable: int | None = None
    # graph, memory and compilation
    op_name_map: str | None = None
    fusion_switch_file: str | None = None
    optimization_switch: str | None = None
    enable_scope_fusion_passes: str | None = None
    buffer_optimize: str | None = None
    disable_reuse_memory: int | None = None
    virtual_type: int | None = None
    core_type: str | None = None
    aicore_num: str | None = None
    enable_single_stream: bool | None = None
    multi_stream_parallel_mode: str | None = None
    ac_parallel_enable: int | None = None
    tiling_schedule_optimize: int | None = None
    topo_sorting_mode: int | None = None
    static_model_ops_lower_limit: int | None = None
    h2d_overlapped_with_compute: str | None = None
    jit_compile: int | None = None
    shape_generalized_build_mode: str | None = None
    atomic_clean_policy: int | None = None
    external_weight: int | None = None
    deterministic: int | None = None
    deterministic_level: int | None = None
    oo_level: str | None = None
    oo_constant_folding: bool | None = None
    oo_dead_code_elimination: bool | None = None
    raw_ge_options: str | None = None
    raw_ge_options_ignore_unsupported: bool | None = None
    build_config: str | None = None
    cluster_config: str | None = None
    hccl_sub_comm_config: str | None = None
    # tuning and caches
    auto_tune_mode: str | None = None
    mdl_bank_path: str | None = None
    op_bank_path: str | None = None
    op_compiler_cache_mode: str | None = None
    op_compiler_cache_dir: str | None = None
    device_id: int | None = None
    # host, debugging and reports
    host_env_os: str | None = None
    host_env_cpu: str | None = None
    target: str | None = None
    check_report: str | None = None
    save_original_model: bool | None = None
    enable_attr_compression: bool | None = None
    display_model_info: int | None = None
    dump_mode: int | None = None
    status_check: int | None = None
    op_debug_level: int | None = None
    op_debug_config: str | None = None
    debug_dir: str | None = None
    export_compile_stat: int | None = None
    log: str | None = None
    extra: tuple[str, ...] = ()

    def command_line(self, program: str = "atc") -> list[str]:
        """The argument list, program first: always in the order of the fields, and only what is set."""
        words = [program]
        for name in FLAGS:
            value = getattr(self, name)
            if value is not None:
                words.append(f"--{name}={_written(name, value)}")
        return [*words, *self.extra]

    def given(self, words: Sequence[str]) -> AtcOptions:
        """With the flags of ``words`` over these, as atc takes the last of a flag that is written twice.

        Args:
            words: ``--name=value``, or ``--name`` and ``value``; one dash will do. A flag that `FLAGS` does not have,
                or a value that is not of its type, is left to atc: it goes into `extra` as it stands.
        """
        values: dict[str, Any] = {}
        extra: list[str] = []
        waiting = list(words)
        while waiting:
            word = waiting.pop(0)
            name, equals, text = word.lstrip("-").partition("=")
            known = word.startswith("-") and name in FLAGS
            if known and not equals and waiting and not waiting[0].startswith("-"):
                text, equals = waiting.pop(0), "="
                word = f"{word}={text}"
            value = _parsed(name, text) if known and equals else None
            if value is None:
                extra.append(word)
            else:
                values[name] = value
        for one, other in (("precision_mode", "precision_mode_v2"), ("precision_mode_v2", "precision_mode")):
            if one in values and other not in values:
                values[other] = None  # atc takes one of the two
        return dataclasses.replace(self, **values, extra=(*self.extra, *extra))

    def to_json(self) -> dict[str, Any]:
        """The flags that are set, as JSON values; `from_json` reads them back."""
        data: dict[str, Any] = {name: getattr(self, name) for name in FLAGS if getattr(self, name) is not None}
        if self.extra:
            data["extra"] = list(self.extra)
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> AtcOptions:
        """The inverse of `to_json`: what the object does not name is unset, pth2om's own defaults included."""
        values: dict[str, Any] = dict.fromkeys(FLAGS)
        values.update({name: data[name] for name in FLAGS if name in data})
        return cls(**values, extra=tuple(data.get("extra", ())))


FLAGS: tuple[str, ...] = tuple(field.name for field in dataclasses.fields(AtcOptions) if field.name != "extra")
"""Every flag's name, in the order in which command lines are written."""

_KINDS = {field.name: str(field.type).split(" ")[0] for field in dataclasses.fields(AtcOptions)}


def shape_text(shapes: Mapping[str, Sequence[int | None]]) -> str:
    """``--input_shape`` for named shapes, e.g. ``images:1,3,640,640``; a size of None is written -1."""
    return ";".join(
        f"{name}:{','.join('-1' if size is None else str(size) for size in shape)}" for name, shape in shapes.items()
    )


def shape_example(shapes: Mapping[str, Sequence[int]]) -> str:
    """``--input_shape`` as an advice shows it: open sizes (below 0) are written 1."""
    return shape_text({name: [1 if size < 0 else size for size in shape] for name, shape in shapes.items()})


def _parsed(name: str, text: str) -> str | int | bool | None:
    """A flag's value of the flag's own type; None where it is not of that type."""
    if _KINDS[name] == "bool":
        return {"true": True, "1": True, "false": False, "0": False}.get(text.lower())
    if _KINDS[name] == "int":
        return int(text) if re.fullmatch(r"-?[0-9]{1,9}", text) else None
    return text


def _written(name: str, value: str | float | bool) -> str:
    if isinstance(value, bool):
        return ("true" if value else "false") if _KINDS[name] == "bool" else str(int(value))
    return str(value)
