"""Fetching: resumed, checked, never unasked. The server is a real one on this machine."""

from __future__ import annotations

import hashlib
import http.server
import io
import os
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pth2om import fetch
from pth2om.cli import main
from pth2om.errors import SpecError

CONTENT = bytes(range(256)) * 4096  # 1 MiB
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@dataclass
class Site:
    """What the server serves and how it misbehaves."""

    content: bytes = CONTENT
    tag: str = '"one"'
    ranges: bool = True
    cut_after: int | None = None
    cuts: int = 1
    redirect: str | None = None
    asked: list[str | None] = field(default_factory=list)
    url: str = ""


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    state = Site()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            state.asked.append(wanted)
            if state.redirect:
                self.send_response(302)
                self.send_header("Location", state.redirect)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            if self.path.endswith("missing"):
                self.send_error(404)
                return
            body, start = state.content, 0
            if wanted and state.ranges and self.headers.get("If-Range") == state.tag:
                start = int(wanted.removeprefix("bytes=").rstrip("-"))
                if start >= len(body):
                    self.send_response(416)
                    self.send_header("Content-Range", f"bytes */{len(body)}")
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
            else:
                self.send_response(200)
            self.send_header("ETag", state.tag)
            self.send_header("Content-Length", str(len(body) - start))
            self.end_headers()
            rest = body[start:]
            if state.cut_after is not None and state.cuts > 0:
                state.cuts -= 1
                self.wfile.write(rest[: state.cut_after])
                self.wfile.flush()
                self.connection.close()
                self.close_connection = True
                return
            self.wfile.write(rest)

        def log_message(self, *arguments: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_port}/weights.bin"
    yield state
    server.shutdown()
    server.server_close()
    thread.join()


def file_of(site: Site, **changes: object) -> fetch.File:
    return fetch.File.model_validate({"url": site.url, "name": "weights.bin", "sha256": DIGEST, **changes})


def left(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.endswith(".lock")}


def test_a_file_is_fetched_once(site: Site, tmp_path: Path) -> None:
    first = fetch.fetch(file_of(site), tmp_path)
    assert (first.path.read_bytes(), first.downloaded, first.resumed_from) == (CONTENT, len(CONTENT), 0)
    again = fetch.fetch(file_of(site), tmp_path)
    assert again.downloaded == 0
    assert site.asked == [None]
    assert left(tmp_path) == {"weights.bin", "weights.bin.sha256"}
    assert (tmp_path / "weights.bin.sha256").read_text() == f"{DIGEST}  weights.bin\n"


def test_a_broken_connection_is_resumed_at_once(site: Site, tmp_path: Path) -> None:
    site.cut_after = 300_000
    done = fetch.fetch(file_of(site), tmp_path)
    assert done.path.read_bytes() == CONTENT
    assert done.downloaded == len(CONTENT)
    assert site.asked == [None, "bytes=300000-"]


def test_a_download_given_up_goes_on_in_the_next_command(site: Site, tmp_path: Path) -> None:
    site.cut_after, site.cuts = 100_000, 3
    with pytest.raises(fetch.FetchError, match="300000 bytes that arrived are kept"):
        fetch.fetch(file_of(site), tmp_path)
    assert not (tmp_path / "weights.bin").exists()
    done = fetch.fetch(file_of(site), tmp_path)
    assert (done.resumed_from, done.downloaded) == (300_000, len(CONTENT) - 300_000)
    assert done.path.read_bytes() == CONTENT
    assert site.asked[-1] == "bytes=300000-"


def test_a_file_replaced_meanwhile_is_begun_anew(site: Site, tmp_path: Path) -> None:
    site.cut_after, site.cuts = 100_000, 3
    with pytest.raises(fetch.FetchError):
        fetch.fetch(file_of(site), tmp_path)
    site.content, site.tag = CONTENT[::-1], '"two"'
    done = fetch.fetch(file_of(site, sha256=hashlib.sha256(site.content).hexdigest()), tmp_path)
    assert done.path.read_bytes() == site.content
    assert (done.resumed_from, done.downloaded) == (0, len(site.content))


def test_a_server_without_ranges(site: Site, tmp_path: Path) -> None:
    site.cut_after, site.cuts, site.ranges = 100_000, 2, False
    done = fetch.fetch(file_of(site), tmp_path)
    assert done.path.read_bytes() == CONTENT


def test_a_whole_partial_file_needs_no_byte_more(site: Site, tmp_path: Path) -> None:
    site.cut_after, site.cuts = 100_000, 3
    with pytest.raises(fetch.FetchError):
        fetch.fetch(file_of(site), tmp_path)
    (tmp_path / "weights.bin.part").write_bytes(CONTENT)
    done = fetch.fetch(file_of(site), tmp_path)
    assert (done.downloaded, done.path.read_bytes() == CONTENT) == (0, True)


def test_a_wrong_digest_leaves_nothing(site: Site, tmp_path: Path) -> None:
    with pytest.raises(fetch.FetchError, match=f"its sha256 is {DIGEST}, but {'0' * 64} was expected"):
        fetch.fetch(file_of(site, sha256="0" * 64), tmp_path)
    assert not {name for name in left(tmp_path) if "json" not in name}


def test_another_file_of_that_name_is_left_alone(site: Site, tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(b"mine")
    with pytest.raises(fetch.FetchError, match="not changed"):
        fetch.fetch(file_of(site), tmp_path)
    assert (tmp_path / "weights.bin").read_bytes() == b"mine"
    assert site.asked == []


def test_a_login_page_is_no_file(site: Site, tmp_path: Path) -> None:
    site.content = b"<!DOCTYPE html><html><body>Please log in</body></html>"
    with pytest.raises(fetch.FetchError, match="html"):
        fetch.fetch(file_of(site, sha256=None), tmp_path)
    assert not (tmp_path / "weights.bin").exists()


def test_without_a_known_digest_the_first_one_is_kept(site: Site, tmp_path: Path) -> None:
    done = fetch.fetch(file_of(site, sha256=None), tmp_path)
    assert done.sha256 == DIGEST
    (tmp_path / "weights.bin").write_bytes(CONTENT[:-1])
    with pytest.raises(fetch.FetchError, match="not changed"):
        fetch.fetch(file_of(site, sha256=None), tmp_path)


def test_a_file_larger_than_announced_is_stopped(site: Site, tmp_path: Path) -> None:
    with pytest.raises(fetch.FetchError, match="more than the announced 1000"):
        fetch.fetch(file_of(site, bytes=1000), tmp_path)


def test_no_such_file(site: Site, tmp_path: Path) -> None:
    with pytest.raises(fetch.FetchError, match="HTTP 404"):
        fetch.fetch(file_of(site, url=site.url + "/missing"), tmp_path)
    assert len(site.asked) == 1


def test_nobody_answers(tmp_path: Path) -> None:
    file = fetch.File(url="http://127.0.0.1:9/x", name="x", sha256=DIGEST)
    with pytest.raises(fetch.FetchError, match="refused"):
        fetch.fetch(file, tmp_path)


@pytest.mark.parametrize("target", ["http://example.invalid/x", "file:///etc/hostname", "ftp://example.invalid/x"])
def test_redirects_stay_safe(site: Site, tmp_path: Path, target: str) -> None:
    site.redirect = target
    with pytest.raises(fetch.FetchError, match=r"(?s)not https|failed"):
        fetch.fetch(file_of(site), tmp_path)
    assert not (tmp_path / "weights.bin").exists()


def test_a_file_address(tmp_path: Path) -> None:
    source = tmp_path / "source with space.bin"
    source.write_bytes(CONTENT)
    done = fetch.fetch(fetch.File(url=source.as_uri(), name="copy.bin", sha256=DIGEST), tmp_path / "to")
    assert done.path.read_bytes() == CONTENT


@pytest.mark.parametrize(
    "url", ["http://example.org/x", "ftp://example.org/x", "file://host/x", "https:///x", "/etc/passwd"]
)
def test_unsafe_addresses_are_refused_in_the_manifest(tmp_path: Path, url: str) -> None:
    manifest = tmp_path / "m.toml"
    manifest.write_text(f'[a]\ntitle = "t"\nlicence = "l"\nkind = "weights"\n[[a.files]]\nurl = "{url}"\nname = "x"\n')
    with pytest.raises(SpecError, match=r"m\.toml"):
        fetch.entries(manifest)


@pytest.mark.parametrize("name", ["../x", "a/b", "", "C:x", "..", "."])
def test_names_stay_in_their_folder(name: str) -> None:
    with pytest.raises(ValueError, match="name"):
        fetch.File(url="https://example.org/x", name=name)


# --- archives ---------------------------------------------------------------------------------------------------------


def packed(kind: str, names: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(buffer, "w") as archive:
            for name, content in names.items():
                archive.writestr(name, content)
    else:
        with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
            for name, content in names.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_an_archive_is_unpacked_once(site: Site, tmp_path: Path, kind: str) -> None:
    site.content = packed(kind, {"val/1.png": b"one", "labels.json": b"{}"})
    file = file_of(site, sha256=hashlib.sha256(site.content).hexdigest(), unpack=True)
    done = fetch.fetch(file, tmp_path)
    assert done.path == tmp_path
    assert (tmp_path / "val" / "1.png").read_bytes() == b"one"
    assert left(tmp_path) == {"val", "labels.json", "weights.bin.sha256"}
    assert fetch.fetch(file, tmp_path).downloaded == 0
    assert len(site.asked) == 1


@pytest.mark.parametrize("kind", ["zip", "tar"])
@pytest.mark.parametrize("name", ["../out", "/out", "a/../../out"])
def test_archives_stay_in_their_folder(site: Site, tmp_path: Path, kind: str, name: str) -> None:
    site.content = packed(kind, {"fine": b"1", name: b"2"})
    folder = tmp_path / "deep" / "er"
    with pytest.raises(fetch.FetchError, match="outside"):
        fetch.fetch(file_of(site, sha256=None, unpack=True), folder)
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "deep" / "out").exists()
    assert "fine" not in left(folder)


def test_links_in_archives_are_refused(site: Site, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        member = tarfile.TarInfo("link")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(member)
    site.content = buffer.getvalue()
    with pytest.raises(fetch.FetchError, match="link"):
        fetch.fetch(file_of(site, sha256=None, unpack=True), tmp_path)


def test_no_archive_at_all(site: Site, tmp_path: Path) -> None:
    with pytest.raises(fetch.FetchError, match="zip or tar"):
        fetch.fetch(file_of(site, unpack=True), tmp_path)


# --- the verb ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def manifest(site: Site, tmp_path: Path) -> Path:
    path = tmp_path / "fetch.toml"
    path.write_text(
        f'[mine]\ntitle = "My net"\nlicence = "MIT, me"\nkind = "weights"\n'
        f'[[mine.files]]\nurl = "{site.url}"\nname = "weights.bin"\nsha256 = "{DIGEST}"\nbytes = {len(CONTENT)}\n'
    )
    return path


def test_everything_is_shown_before_a_byte_is_asked_for(
    site: Site, manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call = ["fetch", "mine", "--manifest", str(manifest), "--to", str(tmp_path / "to")]
    assert main(call) == 1
    shown = capsys.readouterr().out
    for part in ("My net", "MIT, me", site.url, DIGEST, "1.05 MB", "--yes"):
        assert part in shown
    assert site.asked == []
    assert main([*call, "--yes"]) == 0
    assert (tmp_path / "to" / "weights.bin").read_bytes() == CONTENT
    shown = capsys.readouterr().out
    assert shown.index("MIT, me") < shown.index("as expected")


def test_nothing_is_fetched_offline(
    site: Site, manifest: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PTH2OM_OFFLINE", "1")
    assert main(["fetch", "mine", "--manifest", str(manifest), "--yes"]) == 1
    assert "PTH2OM_OFFLINE" in capsys.readouterr().err
    assert site.asked == []


def test_an_unknown_name_lists_the_known(manifest: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fetch", "yolov6m"]) == 1
    shown = capsys.readouterr().err
    assert "yolov6n" in shown
    assert "Traceback" not in shown
    assert main(["fetch"]) == 0
    assert "convmixer" in capsys.readouterr().out


def test_chinese(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PTH2OM_LANG", "zh")
    assert main(["fetch", "yolov6n"]) == 1
    assert "许可证" in capsys.readouterr().out


def test_weights_land_where_specs_look(repository: Path) -> None:
    from pth2om.checkpoint.search import candidates

    entry = fetch.find("yolov6n")
    place = fetch.cache_folder("yolov6n", entry) / entry.files[0].name
    folder = repository / "models" / "yolov6n"
    assert place in list(candidates(folder, "yolov6n.pt", "yolov6n", []))


def test_the_manifest_agrees_with_the_specs(repository: Path) -> None:
    from pth2om.spec import load

    known = fetch.entries()
    for path in sorted((repository / "models").glob("*/model.toml")):
        source = load(path.parent).source
        if source.fetch is not None:
            file = known[source.fetch].files[0]
            assert file.name == source.checkpoint
            assert file.sha256 == source.sha256


def test_a_test_never_downloads() -> None:
    """Neither the plugin nor the pipeline imports the module that can."""
    code = (
        "import sys, pth2om.harness.plugin, pth2om.conversion.pipeline, pth2om.questions.accuracy;"
        "import pth2om.checkpoint, pth2om.data;"
        "sys.exit('pth2om.fetch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, env=dict(os.environ)).returncode == 0
    for path in (Path(fetch.__file__).parent).rglob("*.py"):
        if path.name != "fetch.py":
            text = path.read_text(encoding="utf-8")
            assert "pth2om.fetch" not in text, path
            assert "import fetch" not in text, path
