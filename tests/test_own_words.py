"""What `convert` and `evaluate` advise: their own options, never those of pytest."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

import pth2om
from pth2om.evidence import Finding
from pth2om.language import Message, catalogue, say
from pth2om.own_words import in_own_words

NOT_IN_A_CONVERSION = {
    "accuracy": "other-files",  # belongs to a score that a spec expects
    "ascend": "soc-other-release",  # names both options
    "cann": "open-output other-way provider-aipp provider-shapes provider-amct fallback no-module",  # of --om-run-by
    "checkpoint": "override-missing other-file",  # of pytest's option, and of a spec's digest
    "data": "general-advice override-empty",  # of a dataset that a spec names
    "fetch": "dataset no-answer other-present",
    "latency": "unsteady throttled shared host-only",
    "signoff": "seeded no-om",
    "pipeline": "weights-absent weights-absent-fetch seeded file-absent",  # the file is there, or nothing begins
    "starter": "needs-trust next-trust",  # of init
}


def entries() -> list[tuple[str, dict[str, object]]]:
    folder = Path(pth2om.__file__).parent / "messages"
    found = []
    for file in folder.glob("*.toml"):
        for name, entry in tomllib.loads(file.read_text(encoding="utf-8")).items():
            found.append((f"{file.stem}.{name}", entry))
    return found


def test_every_advice_with_an_option_of_pytest_has_its_own() -> None:
    named = {key for key, entry in entries() if "--om-" in str(entry) and not key.startswith(("plugin.", "gui."))}
    left = {f"{room}.{name}" for room, names in NOT_IN_A_CONVERSION.items() for name in names.split()}
    own = {key for key in named - left if f"instead-{key.replace('.', '-')}" in catalogue("convert")}
    assert named == own | left
    for key in own:
        room, _, name = key.partition(".")
        entry = catalogue(room)[name]
        assert not any("--om-" in entry[language] for language in ("en", "zh")), "only a fix can be replaced"


def test_what_is_instead_is_there_and_speaks_of_convert() -> None:
    known = {f"instead-{key.replace('.', '-')}": key for key, _ in entries()}
    names = [name for name in catalogue("convert") if name.startswith("instead-")]
    assert names
    for name in names:
        message = in_own_words(Message(known[name], {"net": "n.py", "file_classes": 7}), "convert")
        for language in ("en", "zh"):
            fix = message.fix(language)
            assert fix is not None
            assert not re.search(r"--om-|model\.toml|\[source\]", fix)
        assert message.to_json()["key"] == known[name], "the record is the same for every face"


def test_others_stay_as_they_are() -> None:
    message = say("convert.bad-name", name="x")
    assert in_own_words(message, "convert") is message
    assert Finding("a", "info", in_own_words(say("checkpoint.missing"), "convert")).to_json()["message"] == {
        "key": "checkpoint.missing",
        "values": {},
    }


@pytest.mark.parametrize(("language", "says"), [("en", "--num-classes 7"), ("zh", "--num-classes 7")])
def test_values_are_filled_in(language: str, says: str) -> None:
    message = in_own_words(say("checkpoint.misfit-classes", file_classes=7), "convert")
    assert says in str(message.fix(language))


NOT_IN_AN_EVALUATION = {
    "accuracy": "unsettled",  # no drop is judged
    "ascend": "soc-other-release",  # names both options
    "cann": "open-output other-way provider-aipp provider-shapes provider-amct fallback no-module",  # of --om-run-by
    "fetch": "no-answer other-present dataset",  # of the verb that downloads
    "latency": "unsteady throttled shared host-only",
    "signoff": "seeded no-om",
    "starter": "needs-trust next-trust",  # of init
}


FIGURES = {"score": 79.5, "expected": 80.0}


def test_evaluate_names_its_own_options() -> None:
    left = {f"{room}.{name}" for room, names in NOT_IN_AN_EVALUATION.items() for name in names.split()}
    named = {key for key, entry in entries() if "--om-" in str(entry) and not key.startswith(("plugin.", "gui."))}
    assert left <= named
    for key in named - left:
        own = in_own_words(Message(key, {"model": "resnet20", "name": "imagenet", "folder": "f", **FIGURES}), "offline")
        assert own.to_json()["key"] == key, "the record is the same for every face"
        for language in ("en", "zh"):
            shown = f"{own.render(language)} {own.fix(language)}"
            assert "--om-" not in shown
            assert not re.search(r"--\w[\w-]* (resnet20|imagenet)\b", shown), shown


@pytest.mark.parametrize(
    ("key", "values", "says"),
    [
        ("checkpoint.override-missing", {"model": "m"}, ["--weights names this file", "--weights FILE"]),
        ("data.override-empty", {"name": "d", "wanted": "w", "kind": "k"}, ["--datasets-path: this folder"]),
        ("pipeline.weights-absent", {"model": "m", "file": "f"}, ["--data-dir, or give --weights FILE."]),
        ("accuracy.other-files", FIGURES, ["without --images."]),
        ("cann.no-program", {}, ["leave out --toolchain"]),
        ("data.absent", {"how_en": "Point at it: --om-dataset imagenet=DIR. It is"}, ["--datasets-path DIR. It is"]),
    ],
)
def test_options_are_replaced_whole(key: str, values: dict[str, str], says: list[str]) -> None:
    shown = in_own_words(Message(key, values), "offline").with_fix("en")
    assert [part for part in says if part not in shown] == []


def test_manifests_advise_options_that_pytest_has() -> None:
    """A manifest's advice is text of a file: it is shown in a run, and no catalogue can replace it."""
    calib = Path(pth2om.__file__).parent.parent / "calib"
    said = [file.read_text(encoding="utf-8") for file in calib.glob("*/dataset.toml")]
    assert any("--om-dataset" in text for text in said)
    assert not any(re.search(r"(?<![\w-])--(dataset|data-dir|weights)\b", text) for text in said)
