from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pth2om.accuracy.packed import pack, pack_names
from pth2om.cli import main
from pth2om.errors import DataError
from pth2om.evidence import GateRecord
from pth2om.release import baseline, night
from pth2om.release.comparing import compare, update
from pth2om.release.regression import Judge, confirmed
from pth2om.store import Key, Store
from tests.release.nights import FAKE, HOST, gate, stages, write


def by_check(gates: list[GateRecord]) -> dict[str, GateRecord]:
    return {each.check: each for each in gates}


def compared(tmp_path: Path, old: list, new: list, store: Store | None = None) -> dict[str, GateRecord]:
    update([write(tmp_path / "old", old)], tmp_path / "b.json", store)
    return by_check(compare(tmp_path / "b.json", write(tmp_path / "new", new), store))


def test_a_baseline_is_sorted_and_reads_back(tmp_path: Path) -> None:
    records = [*stages(), gate(), gate("closeness", "torch~om/scores/cosine", 0.99, unit="")]
    records.append(gate("latency", "om/wait_ms", 0.0, unit="ms"))
    made = update([write(tmp_path / "run", records)], tmp_path / "b.json", Store(tmp_path / "store"))
    again = baseline.read(tmp_path / "b.json")
    assert again.entries == made.entries
    assert again.made == made.made
    assert again.text() == (tmp_path / "b.json").read_text(encoding="utf-8")
    names = list(json.loads(again.text())["entries"])
    assert names == sorted(names)
    assert len(names) == 3


@pytest.mark.parametrize("what", ["failed", "killed", "regressed", "judged", "empty"])
def test_a_run_that_must_not_make_a_baseline(tmp_path: Path, what: str) -> None:
    file = tmp_path / "b.json"
    update([write(tmp_path / "first", [gate()])], file)
    own = {"baseline": baseline.read(file).digest}
    compared = gate("regression", "accuracy/om/top1/drop", details=own)
    records = {
        "failed": [gate(verdict="failed")],
        "killed": [gate()],
        "regressed": [gate(), dataclasses.replace(compared, verdict="failed", details={})],
        "judged": [gate(), compared],
        "empty": [gate(value=None, verdict="not_measured")],
    }[what]
    before = file.read_bytes()
    with pytest.raises(DataError):
        update([write(tmp_path / what, records, end=what != "killed")], file)
    assert file.read_bytes() == before


def test_a_baseline_does_not_judge_the_run_it_was_made_of(tmp_path: Path) -> None:
    update([write(tmp_path / "run", [gate()])], tmp_path / "b.json")
    with pytest.raises(DataError, match="this very run"):
        compare(tmp_path / "b.json", tmp_path / "run")


def edited(**changed: Any) -> Callable[[dict[str, Any]], None]:
    return lambda data: next(iter(data["entries"].values())).update(changed)


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        (lambda data: data.update(format=2), "format 2; this version reads format 1"),
        (lambda data: data.update(format=True), "no baseline"),
        (lambda data: data.update(entries={}), "entries"),
        (lambda data: data.pop("runs"), "tuple"),
        (edited(values=[]), "values"),
        (edited(values=[1e999]), "Infinity"),
        (edited(model="other"), "id"),
        (edited(interval=[1, -1]), "interval"),
        (edited(kind="latency", values=[-1.0]), "values"),
        (edited(kind="accuracys"), "kind"),
    ],
)
def test_what_a_hand_did_to_a_baseline_is_named(
    tmp_path: Path, edit: Callable[[dict[str, Any]], None], told: str
) -> None:
    file = tmp_path / "b.json"
    update([write(tmp_path / "run", [gate()])], file)
    data = json.loads(file.read_text(encoding="utf-8"))
    edit(data)
    file.write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(DataError, match=told):
        baseline.read(file)


def test_what_git_and_editors_do_to_a_baseline(tmp_path: Path) -> None:
    """Line ends and a mark at the beginning change nothing; what a merge leaves is refused with its place."""
    file = tmp_path / "b.json"
    update([write(tmp_path / "run", [gate(), gate(check="om/top5/drop")])], file)
    plain, raw = baseline.read(file), file.read_bytes()
    file.write_bytes(b"\xef\xbb\xbf" + raw.replace(b"\n", b"\r\n"))
    assert baseline.read(file) == plain
    first, second = sorted(plain.entries)
    at, end = raw.index(f'"{first}"'.encode()), raw.index(f'"{second}"'.encode())
    file.write_bytes(raw[:end] + raw[at:])
    with pytest.raises(DataError, match=rf"{first}: 2 x"):
        baseline.read(file)
    file.write_bytes(raw[:at] + b"<<<<<<< ours\n" + raw[at:])
    with pytest.raises(DataError, match="line 3 column"):
        baseline.read(file)
    file.write_bytes(raw.replace(b"5000", b"1e999"))
    with pytest.raises(DataError, match=r"\.n: "):
        baseline.read(file)


def test_a_baseline_of_another_soc_is_refused(tmp_path: Path) -> None:
    update([write(tmp_path / "run", [gate()])], tmp_path / "b.json")
    other = write(tmp_path / "other", [dataclasses.replace(gate(), soc="Ascend310P3")])
    with pytest.raises(DataError, match="is of Ascend310B1, and the run for Ascend310P3"):
        compare(tmp_path / "b.json", other)
    host = write(tmp_path / "host", [dataclasses.replace(gate(), soc=None)])
    assert by_check(compare(tmp_path / "b.json", host))["accuracy/om/top1/drop"].verdict in ("not_reached", "shown")


def test_a_run_counts_once_and_a_baseline_is_no_run(tmp_path: Path) -> None:
    """A run named twice would look as if nothing varied."""
    run, other = (write(tmp_path / name, [gate()]) for name in ("a", "b"))
    with pytest.raises(DataError, match="named twice"):
        update([run, other, run], tmp_path / "b.json")
    update([run, other], tmp_path / "b.json")
    with pytest.raises(DataError, match="The baseline comes first"):
        compare(run, tmp_path / "b.json")


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"format": 1}', '{"format": 1, "runs": [], "entries": {"a": {}}}', "[" * 9000]
)
def test_what_is_no_baseline_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "b.json").write_text(text)
    with pytest.raises(DataError):
        baseline.read(tmp_path / "b.json")


CAUSES = {
    "checkpoint": {"changed": {"checkpoint": "1" * 64, "onnx": "2" * 64, "om": "3" * 64}},
    "opset": {"changed": {"onnx": "2" * 64, "om": "3" * 64}, "details": {"onnx": {"opset": 11}}},
    "calibration": {
        "changed": {"quantized": "2" * 64, "om": "3" * 64},
        "details": {"quantized": {"calibration_digest": "x"}},
    },
    "om": {"changed": {"om": "3" * 64}},
}


@pytest.mark.parametrize("cause", [*CAUSES, "preprocessing", "net"])
def test_a_loss_is_found_and_the_first_that_changed_is_named(tmp_path: Path, cause: str) -> None:
    lost = gate(value=2.0, interval=(1.7, 2.3))
    if cause in ("preprocessing", "net"):
        lost = dataclasses.replace(lost, digests={**lost.digests, cause: "9" * 64})
    found = compared(tmp_path, [*stages(), gate()], [*stages(**CAUSES.get(cause, {})), lost])
    alarm = found["accuracy/om/top1/drop"]
    assert alarm.verdict == "failed"
    assert alarm.ground == "double"
    name = {"opset": "onnx"}.get(cause, cause)
    assert found["regression/first-changed"].message.key == f"release.changed-{name}"
    told = alarm.message.render("en")
    assert "2 points now" in told
    assert "  " not in told
    if cause == "opset":
        assert "onnx opset 17 → 11" in found["regression/first-changed"].message.render("en")


def test_a_gain_is_reported_too(tmp_path: Path) -> None:
    found = compared(tmp_path, [gate()], [gate(value=-2.0, interval=(-2.3, -1.7))])
    assert found["accuracy/om/top1/drop"].verdict == "inconclusive"
    assert found["accuracy/om/top1/drop"].message.key == "release.better"


def test_what_is_missing_new_or_of_another_kind_is_named_and_not_compared(tmp_path: Path) -> None:
    other_data = gate(check="om/dice/drop", digests={"dataset": "0" * 64})
    old = [gate(), gate(check="om/top5/drop"), gate(check="om/dice/drop"), gate(check="onnx/top1/drop")]
    new = [gate(value=None, verdict="not_measured"), gate(check="om/mIoU/drop"), other_data,
           gate(check="onnx/top1/drop", ground="host", provenance=HOST)]  # fmt: skip
    found = {name.removeprefix("accuracy/"): one.verdict for name, one in compared(tmp_path, old, new).items()}
    assert found == {
        "om/top1/drop": "not_measured",
        "om/top5/drop": "not_reached",
        "om/mIoU/drop": "shown",
        "om/dice/drop": "not_measured",
        "onnx/top1/drop": "not_measured",
    }


def score(store: Store, name: str, right: np.ndarray) -> str:
    """Per-image results in a store: ``right`` says which images are."""
    images = len(right)
    top = np.zeros((images, 5), dtype=np.int32) + np.arange(1, 6)
    top[right, 0] = 0
    measured = {
        "kind": "classification", "version": 5, "images": images, "dataset": "d",
        "metrics": {"top1": 100 * float(right.mean())},
        "labels": pack(np.zeros(images, dtype=np.int32)), "top": pack(top), "margin": pack(np.ones(images)),
        "files": pack_names([f"{number}.png" for number in range(images)]),
    }  # fmt: skip
    artifact = store.artifact(
        Key("score", 1, {"images": name}), lambda folder: (folder / "result.json").write_text(json.dumps(measured))
    )
    return f"score/{artifact.key}"


def test_accuracy_is_judged_on_the_same_images(tmp_path: Path) -> None:
    """A loss that the intervals of two scores hide: 40 images of 5,000, none gained."""
    store = Store(tmp_path / "store")
    before = np.arange(5000) >= 500
    after = before & ~((np.arange(5000) >= 600) & (np.arange(5000) < 640))
    results = [score(store, name, right) for name, right in (("a", before), ("b", after))]
    old, new = (
        gate(check="top1/score", value=100 * float(right.mean()), unit="%", interval=(88.0, 92.0),
             details={"dataset": "d", "images": 5000, "result": result})
        for right, result in zip((before, after), results, strict=True)
    )  # fmt: skip
    found = compared(tmp_path, [old], [new], store)["accuracy/top1/score"]
    assert found.verdict == "failed"
    assert found.measured == pytest.approx(-0.8)
    file = store.root / results[1] / "result.json"
    whole = file.read_bytes()
    # One image more is right now: what was changed after it was written is no result, and the intervals decide.
    file.write_bytes(whole.replace(b'"images": 5000', b'"images": 4999'))
    assert by_check(compare(tmp_path / "b.json", tmp_path / "new", Store(store.root)))["regression/unchanged"]
    file.write_bytes(whole)
    assert by_check(compare(tmp_path / "b.json", tmp_path / "new", store))["accuracy/top1/score"].verdict == "failed"
    (store.root / results[0] / "result.json").unlink()
    assert by_check(compare(tmp_path / "b.json", tmp_path / "new", store))["regression/unchanged"].verdict == "passed"


def latency(value: float, host: str = "m1", variant: str = "fp16-bs1") -> GateRecord:
    one = gate(
        "latency",
        "om/median_ms",
        value,
        unit="ms",
        interval=(value * 0.99, value * 1.01),
        host=host,
        details={},
        digests={},
    )
    return dataclasses.replace(one, variant=variant)


def noisy_baseline(tmp_path: Path) -> Judge:
    """Ten nights of five variants on one machine, with 0.5 % of noise."""
    stream = np.random.default_rng(1)
    runs = []
    for number in range(10):
        values = 10 * np.exp(0.005 * stream.standard_normal(5))
        runs.append(write(tmp_path / f"n{number}", [latency(v, variant=f"fp16-bs{i}") for i, v in enumerate(values)]))
    update(runs, tmp_path / "b.json")
    return Judge(baseline.read(tmp_path / "b.json"))


def test_a_slower_device_is_found_after_measuring_again(tmp_path: Path) -> None:
    judge = noisy_baseline(tmp_path)
    slow = [latency(10.5, variant="fp16-bs1")]
    asked: list[int] = []

    def again(value: float) -> list[GateRecord]:
        asked.append(1)
        return [latency(value, variant="fp16-bs1")]

    kept = confirmed(judge, slow, lambda: again(10.49))
    assert judge.gate(kept[0]).verdict == "failed"
    assert len(asked) == 2
    calm = confirmed(judge, slow, lambda: again(10.01))  # the first was disturbed
    assert judge.gate(calm[0]).verdict == "passed"
    assert len(asked) == 3
    confirmed(judge, [latency(10.02, variant="fp16-bs1")], lambda: again(10))
    assert len(asked) == 3
    assert judge.gate(latency(9.5, variant="fp16-bs1")).verdict == "inconclusive"
    assert judge.gate(latency(10.0, host="m2", variant="fp16-bs1")).verdict == "not_measured"


def test_a_latency_is_not_judged_finer_than_its_own_interval(tmp_path: Path) -> None:
    """Nights that agree to 0.02 %, each known to 1 %: a change of 0.3 % is nothing, one of 5 % is found."""
    stream = np.random.default_rng(2)
    runs = []
    for number in range(5):
        values = 10 * np.exp(0.0002 * stream.standard_normal(8))
        runs.append(write(tmp_path / f"n{number}", [latency(v, variant=f"fp16-bs{i}") for i, v in enumerate(values)]))
    update(runs, tmp_path / "b.json")
    judge = Judge(baseline.read(tmp_path / "b.json"))
    assert judge.gate(latency(10.03)).verdict == "passed"
    assert judge.gate(latency(10.5)).verdict == "failed"
    narrow = dataclasses.replace(latency(10.03), interval=(10.0299, 10.0301))
    # The reference's own interval counts too.
    assert judge.gate(narrow).verdict == "passed"


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PTH2OM_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("PTH2OM_LANG", "en")
    old, new = (
        write(tmp_path / "old", [*stages(), gate()]),
        write(tmp_path / "new", [*stages(), gate(value=3.0, interval=(2.8, 3.2))]),
    )
    assert main(["baseline", "update", str(old), "-o", str(tmp_path / "b.json")]) == 0
    assert "5000 images" in capsys.readouterr().out
    assert main(["compare", str(tmp_path / "b.json"), str(new)]) == 1
    out = capsys.readouterr().out
    assert out.startswith("worse: net-int8-bs1 accuracy/om/top1/drop@d [double]: Worse than the baseline")
    assert main(["compare", str(old), str(old)]) == 1  # the same run
    assert main(["compare", str(tmp_path / "none"), str(new)]) == 1


def test_a_night_without_its_end_is_not_whole(tmp_path: Path) -> None:
    assert night.read(write(tmp_path / "a", [gate()])).whole
    assert not night.read(write(tmp_path / "b", [gate()], end=False)).whole


@pytest.mark.parametrize("whole", [False, True])
def test_what_was_not_reached_is_told_once(tmp_path: Path, whole: bool) -> None:
    """A test that ended before it measured leaves its gates not reached; the comparison counts them, and no more."""
    lost = [gate(check=name, value=None, verdict="not_reached") for name in ("om/top1/drop", "om/top5/drop")]
    if whole:
        stands_for = {"whole": True, "dataset": "d"}
        lost = [gate(check="accuracy/test_om_accuracy", value=None, verdict="not_reached", details=stands_for)]
    kept = gate("closeness", "torch~om/scores/cosine", 0.99, unit="")
    found = compared(tmp_path, [gate(), gate(check="om/top5/drop"), kept], [*lost, kept])
    assert {name: one.verdict for name, one in found.items()} == {
        "regression/lost": "not_reached",
        "regression/unchanged": "passed",
    }
    assert found["regression/lost"].message.values["count"] == 2
    old, new = (write(tmp_path / name, gates) for name, gates in (("old", [gate(), kept]), ("new", [lost[0], kept])))
    assert main(["compare", str(old), str(new)]) == 1


def test_an_absent_baseline_says_how_to_make_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write(tmp_path / "run", [gate()])
    assert main(["compare", str(tmp_path / "none.json"), str(run)]) == 1
    printed = capsys.readouterr().err
    assert "no such file" in printed
    assert "pth2om baseline update" in printed


@pytest.mark.parametrize(("runs", "key"), [(1, "weak-baseline-unused"), (5, "weak-baseline"), (10, None)])
def test_a_weak_baseline_is_named_when_it_judges(tmp_path: Path, runs: int, key: str | None) -> None:
    nights = [write(tmp_path / f"n{number}", [latency(10.0 + number / 1000)]) for number in range(runs)]
    update(nights, tmp_path / "b.json")
    found = by_check(compare(tmp_path / "b.json", write(tmp_path / "new", [latency(10.0)])))
    weak = found.get("regression/weak-baseline")
    assert (weak.message.key if weak is not None else None) == (f"release.{key}" if key else None)
    if key:
        assert weak.verdict == "shown"
        assert f"{runs} of its runs" in weak.message.render("en")
        assert "97.9 %" in weak.message.render("en")
    host = [dataclasses.replace(latency(10.0), ground="host", provenance=HOST)]
    update([write(tmp_path / "host", host)], tmp_path / "h.json")
    assert "regression/weak-baseline" not in by_check(compare(tmp_path / "h.json", write(tmp_path / "later", host)))


def closeness(distance: float, number: int) -> GateRecord:
    one = gate("closeness", "torch~om/scores/cosine", 1 - distance, unit="", digests={"samples": "5" * 64})
    return dataclasses.replace(one, variant=f"fp16-bs{number}")


def test_closeness_is_judged_by_what_its_own_runs_differ_by(tmp_path: Path) -> None:
    """Six runs of other seeds, whose distances from one vary by a tenth: a fifth more is noise, three times is not."""
    stream = np.random.default_rng(3)
    runs = []
    for number in range(6):
        distances = 1e-4 * np.exp(0.1 * stream.standard_normal(8))
        runs.append(write(tmp_path / f"n{number}", [closeness(one, i) for i, one in enumerate(distances)]))
    update(runs, tmp_path / "b.json")
    judge = Judge(baseline.read(tmp_path / "b.json"))
    assert judge.gate(closeness(1.2e-4, 0)).verdict == "passed"
    assert judge.gate(closeness(3e-4, 0)).verdict == "failed"
    assert judge.gate(closeness(3e-5, 0)).verdict == "inconclusive"  # better than noise allows
    update(runs[:1], tmp_path / "one.json")
    alone = Judge(baseline.read(tmp_path / "one.json")).gate(closeness(3e-4, 0))
    assert (alone.verdict, alone.message.key) == ("inconclusive", "release.noise-unknown")


def test_other_data_and_another_toolchain_are_named(tmp_path: Path) -> None:
    """The same files by another compiler are compared, with its name; figures of other data are not."""
    newer = dataclasses.replace(FAKE, version="2")
    made = [dataclasses.replace(one, provenance=newer) if one.stage == "om" else one for one in stages()]
    lost = gate(value=2.0, interval=(1.7, 2.3), provenance=newer)
    found = compared(tmp_path / "tool", [*stages(), gate()], [*made, lost])
    assert found["regression/first-changed"].message.key == "release.changed-toolchain"
    assert found["accuracy/om/top1/drop"].verdict == "failed"
    assert "the toolchain (fake 1 then, fake 2 now" in found["accuracy/om/top1/drop"].message.render("en")
    other = gate(value=2.0, digests={**gate().digests, "dataset": "0" * 64})
    found = compared(tmp_path / "data", [*stages(), gate()], [*stages(), other])
    assert found["regression/first-changed"].message.key == "release.changed-data"
    assert found["accuracy/om/top1/drop"].verdict == "not_measured"
    assert found["accuracy/om/top1/drop"].message.key == "release.other-data"
