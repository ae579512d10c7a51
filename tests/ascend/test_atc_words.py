"""Flags that a variant adds go over those that are written anyway, as atc takes the last."""

from __future__ import annotations

import pytest

from pth2om.ascend.atc_options import AtcOptions

PLAIN = AtcOptions(model="m.onnx", output="m", precision_mode="force_fp16")


@pytest.mark.parametrize(
    ("words", "flags", "extra"),
    [
        (["--output_type=FP16"], {"output_type": "FP16"}, ()),
        (["-log", "info"], {"log": "info"}, ()),
        (["--is_weight_clip=0"], {"is_weight_clip": 0}, ()),
        (["--allow_hf32=true"], {"allow_hf32": True}, ()),
        (["--is_weight_clip=maybe"], {"is_weight_clip": None}, ("--is_weight_clip=maybe",)),
        (["--new_flag=1", "--new", "--log=info"], {"log": "info"}, ("--new_flag=1", "--new")),
        (["--precision_mode_v2=origin"], {"precision_mode_v2": "origin", "precision_mode": None}, ()),
        (["--log=info", "--log=error"], {"log": "error"}, ()),
        (["stray"], {}, ("stray",)),
    ],
)
def test_given(words: list[str], flags: dict[str, object], extra: tuple[str, ...]) -> None:
    found = PLAIN.given(words)
    assert {name: getattr(found, name) for name in flags} == flags
    assert found.extra == extra
    names = [word.partition("=")[0] for word in found.command_line()]
    assert len(set(names)) == len(names)
