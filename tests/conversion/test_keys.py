"""Each part of a key: what changes it, and what must not."""

from __future__ import annotations

from pathlib import Path

import pytest

from pth2om import spec as specs
from pth2om.ascend.target import Packages, Target
from pth2om.conversion.pipeline import Pipeline
from tests.conversion.conftest import Make

STAGES = ("checkpoint", "onnx", "om")


def keys(pipeline: Pipeline) -> dict[str, str]:
    (variant,) = pipeline.spec.variants
    built = {"onnx": pipeline.onnx(variant.batch), "om": pipeline.om(variant)}
    built["checkpoint"] = pipeline.checkpoint()
    return {name: built[name].record.key for name in STAGES}


def changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {name for name in STAGES if before[name] != after[name]}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, set()),
        ({"soc": "Ascend310P3"}, {"om"}),
        ({"cann": "8.0"}, {"onnx", "om"}),
        ({"trust": frozenset({"plain"})}, {"checkpoint", "onnx"}),
        ({"threads": 1}, set()),
        ({"subset": 3}, set()),
        ({"seed": 1}, set()),
    ],
)
def test_a_setting_changes_the_keys_that_read_it(make: Make, change: dict[str, object], expected: set[str]) -> None:
    assert changed(keys(make("plain")), keys(make("plain", **change))) == expected


@pytest.mark.parametrize(("parts", "expected"), [({"parser": "x"}, {"onnx", "om"}), ({"kernels": "x"}, {"om"})])
def test_operator_packages_are_in_the_keys_that_read_them(
    make: Make, monkeypatch: pytest.MonkeyPatch, parts: dict[str, str], expected: set[str]
) -> None:
    before = keys(make("plain"))
    monkeypatch.setattr(Packages, "here", classmethod(lambda cls, family: Packages(**parts)))
    assert changed(before, keys(make("plain"))) == expected


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ('variants = ["fp16-bs1"]', 'variants = ["mixed-bs1"]', {"om"}),
        ("shape = [4]", "shape = [4]\nrange = [0.0, 2.0]", {"checkpoint", "onnx"}),
        ("[source]", "[export]\nsimplify = false\n\n[source]", {"onnx"}),
        ("[source]", "[gates]\ndrop = 2.0\n\n[source]", set()),
        ("[source]", '[[slices]]\nname = "y"\n\n[source]', set()),
    ],
)
def test_a_line_of_the_spec_changes_the_keys_that_read_it(
    make: Make, models: Path, old: str, new: str, expected: set[str]
) -> None:
    before = keys(make("plain"))
    spec = models / "plain" / "model.toml"
    spec.write_text(spec.read_text().replace(old, new))
    assert changed(before, keys(make("plain"))) == expected


def test_the_target_of_a_run_is_read_once(make: Make) -> None:
    settings = make("plain").settings
    assert settings.target is settings.target
    assert settings.target == Target.of("Ascend310B1", settings.cann)


def test_a_file_that_an_atc_argument_names_counts_by_its_content(make: Make, models: Path, tmp_path: Path) -> None:
    listed = tmp_path / "keep.txt"
    listed.write_text("a\n")
    spec = models / "plain" / "model.toml"
    table = f'[[variants]]\nprecision = "mixed"\natc = ["--keep_dtype={listed.as_posix()}"]\n\n[source]'
    text = spec.read_text().replace('variants = ["fp16-bs1"]\n', "")
    spec.write_text(text.replace("[source]", table))
    assert specs.load(models / "plain").variants[0].atc
    from pth2om.conversion.om_stage import OmStage

    def key() -> dict[str, str]:
        pipeline = make("plain")
        (variant,) = pipeline.spec.variants
        built = pipeline.onnx(1)
        options = pipeline.atc_options(variant, built.file)
        return dict(OmStage(pipeline.source, variant, built, options, pipeline.toolchain()).inputs())

    first = key()
    listed.write_text("b\n")
    assert first != key()


def test_what_was_asked_before_is_built_anew_where_its_files_are_not_as_they_were(make: Make) -> None:
    pipeline = make("plain")
    (variant,) = pipeline.spec.variants
    asks = {"model.onnx": lambda: pipeline.onnx(1), "result.json": lambda: pipeline.om(variant)}
    for name, ask in asks.items():
        file = ask().artifact.file(name)
        whole = file.read_bytes()
        for damage in (Path.unlink, lambda path: path.write_bytes(b"another")):
            assert ask() is ask()  # found whole, and then only looked at
            damage(file)
            again = ask()
            assert not again.artifact.cached
            assert again.artifact.file(name).read_bytes() == whole
    other = variant.model_copy(update={"atc": ("--enable_small_channel=1",)})  # of the same name
    assert pipeline.om(other).artifact.key != pipeline.om(variant).artifact.key
