from __future__ import annotations

import codecs
import dataclasses
import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pth2om.cli import main
from pth2om.errors import DataError
from pth2om.release import history, night
from pth2om.release.history import Point
from pth2om.report import render
from pth2om.report.trend import curve, page, series_of
from tests.release.nights import FAKE, gate, stages, write


def test_nights_are_appended_once_and_read_back(tmp_path: Path) -> None:
    for name in ("a", "b", "a"):
        folder = tmp_path / name
        if not folder.exists():
            write(folder, [*stages(), gate(value=0.5)])
        history.append(night.read(folder), tmp_path / "history")
    points, skipped = history.read(tmp_path / "history" / "net.jsonl")
    assert [one.run for one in points] == ["a", "b"]
    assert list(points[0].values.values()) == [(0.5, "double", "m1")]
    assert points[0].toolchain == "fake 1"
    assert skipped == []


def test_a_line_that_was_cut_off_costs_that_line_only(tmp_path: Path) -> None:
    file = tmp_path / "history" / "net.jsonl"
    history.append(night.read(write(tmp_path / "a", [gate()])), file.parent)
    file.write_bytes(file.read_bytes() + b'{"run": "cut", "sta')
    history.append(night.read(write(tmp_path / "b", [gate()])), file.parent)
    points, skipped = history.read(file)
    assert [one.run for one in points] == ["a", "b"]
    assert "net.jsonl:2" in skipped[0].render("en")


@given(st.binary(max_size=300))
def test_any_bytes_are_read(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    file = tmp_path_factory.mktemp("h") / "net.jsonl"
    file.write_bytes(data)
    assert history.read(file)[0] == []


def test_a_mark_at_the_beginning_costs_no_night_and_no_number_is_beyond_all(tmp_path: Path) -> None:
    lines = [json.dumps(dataclasses.asdict(one)).encode() for one in nights_of({"net/x/accuracy/y": [1.5, 2.5]})]
    file = tmp_path / "net.jsonl"
    file.write_bytes(codecs.BOM_UTF8 + lines[0] + b"\r\n" + lines[1].replace(b"2.5", b"1e999") + b"\r\n")
    points, skipped = history.read(file)
    assert [one.run for one in points] == ["run0"]
    assert len(skipped) == 1


def test_a_name_that_is_a_path_is_refused(tmp_path: Path) -> None:
    bad = write(tmp_path / "a", [dataclasses.replace(gate(), model="../up")])
    with pytest.raises(DataError):
        history.append(night.read(bad), tmp_path / "history")


def test_the_page_marks_other_toolchains_and_holds_no_markup_of_a_file(tmp_path: Path) -> None:
    new = dataclasses.replace(FAKE, version="<b>2")
    for name, tool in (("a", FAKE), ("b", new)):
        made = [dataclasses.replace(one, provenance=tool) if one.stage == "om" else one for one in stages()]
        history.append(night.read(write(tmp_path / name, [*made, gate()])), tmp_path / "history")
    points, _ = history.read(tmp_path / "history" / "net.jsonl")
    text = page("net", points)
    assert text.count("class=t") == 1
    assert "fake 1 → fake &lt;b&gt;2" in text
    assert curve([1.0, None, 2.0], []).count(",") == 2
    assert curve([], []) == ""


def nights_of(values: Mapping[str, Sequence[float | None]], machine: str = "m1") -> list[Point]:
    """Nights of figures on the host: a None is a night that did not measure it."""
    count = max(map(len, values.values()))
    return [
        Point(
            f"run{n}", f"2026-01-{n + 1:02d}T02:00:00+00:00", "fake 1",
            {name: (value, "host", machine) for name, of in values.items() if (value := of[n]) is not None},
        )
        for n in range(count)
    ]  # fmt: skip


def test_what_changed_comes_first_and_what_never_did_is_folded_away() -> None:
    nights = nights_of({
        "net/a/accuracy/early": [1.0, 2.0, 2.0, 2.0],
        "net/b/accuracy/late": [1.0, 1.0, 1.0, 0.5],
        "net/c/accuracy/same": [3.0, 3.0, 3.0, 3.0],
        "net/d/accuracy/gone": [4.0, 4.0, None, None],
        "net/e/accuracy/gap": [5.0, None, 6.0, None],
    })  # fmt: skip
    assert [one.name.rpartition("/")[2] for one in series_of(nights)] == ["late", "gap", "early", "same", "gone"]
    text = page("net", nights)
    shown, folded = text.split("<details>")
    assert re.findall(r"accuracy/(\w+)", shown) == ["late", "gap", "early"]
    assert re.findall(r"accuracy/(\w+)", folded) == ["same", "gone"]
    assert "3 figures that changed" in shown
    assert folded.startswith("<summary>2 figures that never changed</summary>")
    assert shown.count("<svg") == text.count("<svg") == 3
    # What the last night did not measure carries the day of its value.
    assert "(last measured 2026-01-02)" in folded
    assert "(last measured 2026-01-03)" in shown
    assert text.count("last measured") == 2


def test_nights_of_two_time_zones_are_in_order(tmp_path: Path) -> None:
    """The night of the clock's change, and a machine elsewhere: the later text may be the earlier night."""
    starts = {"b": "2026-10-25T02:30:00+01:00", "a": "2026-10-25T02:40:00+02:00", "c": "2026-10-24T23:50:00-04:00"}
    starts["-"] = "x"
    points = [Point(name, started, "t", {"n/x/accuracy/y": (1.0, "host", "m")}) for name, started in starts.items()]
    file = tmp_path / "n.jsonl"
    file.write_text("".join(f"{json.dumps(dataclasses.asdict(one))}\n" for one in points))
    assert [one.run for one in history.read(file)[0]] == ["-", "a", "b", "c"]


def test_a_change_in_a_late_digit_is_seen_in_its_numbers() -> None:
    values = {"net/x/accuracy/y": [0.9999990001, 0.9999990002], "net/z/accuracy/y": [33.3333, 33.3334]}
    text = page("net", nights_of(values))
    ends = re.findall(r"\((\S+) … (\S+)\)", text)
    assert len(ends) == 2
    assert all(low != high for low, high in ends)


def test_figures_of_two_machines_or_grounds_are_no_change() -> None:
    one, two = nights_of({"net/x/latency/p50": [1.0, 1.0]})
    two = dataclasses.replace(two, values={"net/x/latency/p50": (9.0, "host", "m2")})
    assert [each.changed for each in series_of([one, two])] == [0, 0]


def test_more_plots_than_a_page_can_hold_are_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pth2om.report.trend._MOST_PLOTS", 2)
    text = page("net", nights_of({f"net/{n}/accuracy/x": [0.0, 1.0] for n in range(5)}))
    assert text.count("<svg") == 2
    assert "3 more figures that changed" in text
    assert all(f"net/{n}/accuracy/x" in text for n in range(5))


def test_within_equal_values_only_the_ends_are_drawn() -> None:
    drawn = str(curve([1.0] * 30 + [2.0] * 30, []))
    assert drawn.count(",") == 4
    assert curve([1.0] * 60, []).count(",") == 2


def test_a_file_that_is_larger_than_what_is_read_gives_its_last_nights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "net.jsonl"
    lines = [json.dumps(dataclasses.asdict(one)).encode() for one in nights_of({"net/x/accuracy/y": [1.0] * 9})]
    file.write_bytes(b"\n".join(lines[:8]) + b"\ndamaged\n" + lines[8] + b"\n")
    monkeypatch.setattr(history, "MOST_BYTES", len(lines[8]) + len(lines[7]) + 20)
    points, skipped = history.read(file)
    assert [one.run for one in points] == ["run7", "run8"]
    assert "net.jsonl:9" in skipped[0].render("en")
    monkeypatch.setattr(history, "MOST_BYTES", 1 << 20)
    monkeypatch.setattr(history, "MOST_NIGHTS", 3)
    assert [one.run for one in history.read(file)[0]] == ["run7", "run8"]
    assert history.append(night.read(write(tmp_path / "run0", [gate()])), tmp_path) == []


def test_a_full_disk_leaves_the_history_as_it_was(tmp_path: Path) -> None:
    history.append(night.read(write(tmp_path / "a", [gate()])), tmp_path / "history")
    file = tmp_path / "history" / "net.jsonl"
    before = file.read_bytes()
    run = write(tmp_path / "b", [gate()])
    code = (
        "import resource, signal, sys\nfrom pathlib import Path\nfrom pth2om.errors import DataError\n"
        "from pth2om.release import history, night\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "found = night.read(Path(sys.argv[1]))\n"
        "most = int(sys.argv[3])\nresource.setrlimit(resource.RLIMIT_FSIZE, (most, most))\n"
        "try:\n    history.append(found, Path(sys.argv[2]))\nexcept DataError as error:\n    print(error)\n"
    )
    words = [sys.executable, "-c", code, str(run), str(file.parent), str(len(before) + 40)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert "cannot be written" in done.stdout
    assert file.read_bytes() == before


def test_a_report_leads_to_the_history_beside_it(tmp_path: Path) -> None:
    run = write(tmp_path / "reports" / "run", [*stages(), gate()])
    assert "../history" not in render(run, run).read_text(encoding="utf-8")
    assert main(["history", str(run), "-o", str(tmp_path / "reports" / "history")]) == 0
    page_of_run = render(run, run).read_text(encoding="utf-8")
    (link,) = re.findall(r'<a href="(\.\./[^"]*)">net</a>', page_of_run)
    assert (run / link).resolve() == (tmp_path / "reports" / "history" / "net.html").resolve()
    assert (run / link).is_file()


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write(tmp_path / "a", [gate()])
    assert main(["history", str(run), "-o", str(tmp_path / "h")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "h" / "net.html")
    text = (tmp_path / "h" / "net.html").read_text(encoding="utf-8")
    assert "1 figure that never changed" in text
    assert "net/int8-bs1/Ascend310B1/accuracy" in text
