"""Start: what a file is, the picker that cannot leave its folders, uploads kept apart."""

from __future__ import annotations

import json
import pickle
import re
import tomllib

import pytest

from pth2om import cli
from pth2om.gui import places
from pth2om.gui.settings import BUNDLED
from pth2om.onefile.looking import look
from tests.gui.window import ORIGIN, Window, filled, link, text

pytestmark = pytest.mark.usefixtures("asked_here")


@pytest.fixture(scope="module")
def outside(project):
    """Ways out of the project: links to a file and a folder outside."""
    (project / "link.txt").symlink_to(project.parent / "secret.txt")
    (project / "up").symlink_to(project.parent)
    (project / "self").symlink_to(project)
    return project


@pytest.mark.parametrize("page", ["/?dir={}", "/file?path={}", "/view?path={}", "/download?path={}", "/seen?path={}",
                                  "/look?path={}", "/pick?dir={}", "/picture/graph?path={}", "/report?path={}",
                                  "/graph?file={}", "/om?file={}"])  # fmt: skip
@pytest.mark.parametrize(
    "path", ["link.txt", "up", "up/secret.txt", "../secret.txt", "/etc/passwd", "self/../../secret.txt", "~root/.ssh"]
)
def test_no_page_leaves_the_folders(window, outside, page, path):
    answer = window.client.get(page.format(path))
    assert answer.status_code == 400
    assert "nothing to see" not in answer.text


def test_the_picker_shows_what_may_be_taken_and_no_links_out(window, outside):
    (outside / "<b>.pth").write_bytes(b"")
    page = window.get("/pick", dir="").text
    assert "secret" not in page
    assert "link.txt" not in page
    assert ">up/" not in text(page)
    assert "&lt;b&gt;.pth" in page
    assert "self/" in page  # leads inside
    (outside / "<b>.pth").unlink()


def test_further_roots_may_be_read(project, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "x.log").write_text("a line\n")
    with Window(project, tmp_path / "state", roots=(other,)) as window:
        window.sign_in()
        assert window.get("/file", path=str(other / "x.log")).status_code == 200
        assert str(other) in window.get("/").text


def test_long_folders_come_in_pages(window, project):
    folder = project / "many"
    folder.mkdir()
    for number in range(120):
        (folder / f"f{number:03}.bin").touch()
    first, last = window.get("/", dir="many").text, window.get("/", dir="many", page="3").text
    assert "f049.bin" in first
    assert "f050.bin" not in first
    assert "f119.bin" in last
    assert window.get("/", dir="many", page="99999999999").status_code == 200
    assert window.get("/", dir="many", wanted="f11", page="1").text.count("f11") >= 10


def test_an_upload_is_kept_apart_under_a_harmless_name(window):
    answer = window.post("/upload", files={"file": ("../../../<x>.log", b"E10001: bad\n")})
    assert answer.status_code == 303
    (kept,) = window.settings.uploads.glob("*/*")
    assert re.fullmatch(r"[\w.\-]+\.log", kept.name)
    assert kept.read_bytes() == b"E10001: bad\n"
    assert window.client.get(answer.headers["location"]).status_code == 200
    seen = window.get("/seen", path=str(kept)).text
    assert 'href="/explain?' in seen


def test_an_upload_beyond_the_bound_is_refused_and_leaves_nothing(project, tmp_path):
    with Window(project, tmp_path / "state", upload_bytes=1000) as window:
        window.sign_in()
        assert window.post("/upload", files={"file": ("a.pth", b"x" * 2000)}).status_code == 413
        pieces = (b"x" * 600 for _ in range(3))
        kind = {"content-type": "multipart/form-data; boundary=b"}
        assert window.client.post("/upload", content=pieces, headers={**ORIGIN, **kind}).status_code == 413
        assert window.post("/upload", {"other": "x"}).status_code == 400
        assert list(window.settings.uploads.iterdir()) == []


def test_a_file_is_shown_in_an_origin_of_its_own(window, project):
    (project / "evil.html").write_text("<script>fetch('/jobs')</script>")
    answer = window.get("/view", path="evil.html")
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("sandbox allow-scripts")
    assert "allow-same-origin" not in policy
    assert "connect-src" not in policy


class Tells:
    """A pickle of a class that is not torch's; reading it as data must not run this."""

    def __reduce__(self):
        return (print, ("was run",))


def test_a_pickle_is_looked_at_as_data(project, capsys):
    file = project / "hostile.pkl"
    file.write_bytes(pickle.dumps({"a": Tells()}))
    seen = look(file)
    assert seen.problem is not None
    assert "was run" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "content", "family", "doors"),
    [
        ("atc.log", b"[ERROR] E10001\n", "log", ("explain",)),
        ("aipp.cfg", b"aipp_op { aipp_mode: static\n input_format: RGB888_U8\n}\n", "aipp", ("aipp",)),
        ("net.py", b"TEMPLATE_NAME = 'n'\nraise SystemError\n", "template", ()),
        ("evidence.jsonl", b'{"kind": "run", "format": 1}\n', "evidence", ("report",)),
        ("x.convert.json", b'{"kind": "conversion"}', "conversion", ("report",)),
        ("other.json", b"[1, 2", "log", ("explain",)),
        ("empty.pth", b"", "other", ()),
        ("pointer.pth", b"version https://git-lfs.github.com/spec/v1\n", "other", ()),
        ("page.pth", b"<!doctype html><title>login</title>", "other", ()),
        ("picture.png", b"\x89PNG\r\n\x1a\n", "other", ()),
    ],
)
def test_a_file_is_known_by_its_content(tmp_path, name, content, family, doors):
    file = tmp_path / name
    file.write_bytes(content)
    seen = look(file)
    assert (seen.family, seen.doors) == (family, doors)
    assert seen.problem is None or seen.problem.fix()
    assert seen.said or seen.problem


def test_checkpoints_say_what_they_need(tmp_path, repository, capsys):
    weights = repository / "models/convmixer-digits/weights/convmixer_digits.pth"
    assert cli.main(["inspect", "--json", str(weights)]) == 0
    seen = json.loads(capsys.readouterr().out)
    assert (seen["family"], seen["classes"], seen["inputs"][0]["shape"][0]) == ("state-dict", 10, 1)
    assert "template" in seen["said"][0]
    import torch

    torch.save(torch.nn.Sequential(torch.nn.Conv2d(4, 8, 3)), tmp_path / "whole.pt")
    whole = look(tmp_path / "whole.pt")
    assert (whole.family, whole.inputs[0][1][0], whole.foreign) == ("module", 4, "")


def test_an_empty_project_offers_the_bundled_model_and_leads_to_a_form_that_runs(window, project):
    """As after ``pip install``, in a folder with nothing in it: two clicks, and no card that leads nowhere."""
    page = window.get("/").text
    assert "/accept?" not in page  # there is no spec in this project
    card = link(page, "/convert?")
    form = filled(window.client.get(card).text)
    line = window.post("/preview/convert", form).json()
    assert (line["problem"], "--soc Ascend310B1" in line["line"]) == ("", True)
    assert not list(project.glob("models"))
    seen = window.get("/look", path=form["file"][0]).json()
    assert (seen["family"], seen["problem"]) == ("state-dict", None)
    assert form["template"][0].endswith("convmixer/net.py")
    # Only the two folders of that model may be seen, not the package around them.
    assert window.get("/look", path=str(BUNDLED[1].parent / "conftest.py")).status_code == 400
    assert "convmixer" not in window.get("/pick", dir="").text


@pytest.mark.parametrize("place", ["package", "beside", "nowhere"])
def test_the_bundled_model_is_found_in_a_wheel_and_in_a_checkout(window, tmp_path, monkeypatch, place):
    monkeypatch.setattr("pth2om.gui.places.BUNDLED", (tmp_path / "package", tmp_path / "beside"))
    for name in ("convmixer-digits/weights/convmixer_digits.pth", "convmixer/net.py"):
        (tmp_path / place / name).parent.mkdir(parents=True)
        (tmp_path / place / name).touch()
    found = places.bundled(window.settings)
    assert found == (
        None
        if place == "nowhere"
        else tuple(
            tmp_path / place / name for name in ("convmixer-digits/weights/convmixer_digits.pth", "convmixer/net.py")
        )
    )
    assert ("/convert?" in window.get("/").text.split("</header>")[1]) is (found is not None)


def test_the_wheel_carries_what_the_card_leads_to(repository):
    """The folders that setup.py puts into the package hold the files that are looked for there."""
    names = dict(re.findall(r'"pth2om\.models\.([\w-]+)": "(models/[\w-]+)"', (repository / "setup.py").read_text()))
    assert (repository / names["convmixer"] / "net.py").is_file()
    assert list((repository / names["convmixer-digits"] / "weights").glob("*.pth"))
    data = tomllib.loads((repository / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    assert data["pth2om.models.convmixer-digits"] == ["weights/*.pth"]
