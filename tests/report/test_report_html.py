from __future__ import annotations

import base64
import dataclasses
import re
from html.parser import HTMLParser

import pytest

from pth2om import evidence
from pth2om.errors import DataError
from pth2om.evidence import Finding, GateRecord, Limit, StageRecord
from pth2om.language import Message
from pth2om.report import collect, render
from pth2om.report.html import PAGE_BYTES, PICTURE_BYTES, picture_uri, render_html
from pth2om.report.plain import gate_lines

WEBP = b"RIFF\x24\x00\x00\x00WEBPVP8 "
HOSTILE = [
    "<script>window.pwned=1</script>",
    '"><img src=x onerror="window.pwned=1">',
    "' onmouseover='window.pwned=1",
    "</style></script></title></template><h1>",
    "{{ 7 * 7 }}{% raw %}{% endraw %}",
    "javascript:window.pwned=1",
    "{values} {0} {x.__class__} %s",
    "\u202egnp.exe\x00\x1b[31m\n\n<b>",
    "x" * 5000,
]
_VOID = {"meta", "link", "br", "img", "input", "path", "circle"}
_OPTIONAL = {"td", "th", "tr"}


class Page(HTMLParser):
    """The page's elements and what a reader of one language sees."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.elements, self.stack, self.words = [], [], []
        self.feed(text)
        self.close()
        assert [name for name in self.stack if name not in _OPTIONAL] == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in _VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        while self.stack and self.stack[-1] in _OPTIONAL and self.stack[-1] != tag:
            self.stack.pop()
        assert self.stack, f"</{tag}> closes nothing"
        assert self.stack.pop() == tag

    def handle_data(self, data):
        if not self.stack or self.stack[-1] not in ("script", "style"):
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def page(small):
    return render_html(collect(small), "en")


def test_the_page_is_well_formed_and_needs_nothing_else(page):
    seen = Page(page)
    for tag, attributes in seen.elements:
        for name in ("src", "href", "data", "action"):
            address = attributes.get(name)
            assert address is None or re.match(r"(data:|#|[a-z.]+$)", address), (tag, address)
    assert "http" not in re.sub(r"http-equiv", "", page)
    assert "@import" not in page
    assert "url(" not in page


def test_both_languages_are_complete(page):
    english = re.findall(r"<i lang=en>(.*?)</i>", page)
    chinese = re.findall(r"<i lang=zh>(.*?)</i>", page)
    assert len(english) == len(chinese) > 100
    assert all(english)
    assert all(chinese)
    assert not re.search(r"[\u4e00-\u9fff]", "".join(english).replace("中文", ""))


def test_the_first_language_is_the_one_asked_for(small):
    assert '<html lang="zh" data-lang="zh"' in render_html(collect(small), "zh")


def test_whatever_is_emulated_says_so(page, small):
    """Every row, cell and heading with a figure of the emulator carries the word."""
    seen = Page(page).text
    assert seen.count("emulated") > 20
    tables = re.findall(r'<table class="close">.*?</table>', page, re.S)
    assert tables
    for table in tables:
        head = table.split("<tbody>")[0]
        om = [cell for cell in head.split("<th>") if "↔ OM" in cell]
        assert om
        assert all("tag emulated" in cell or "tag double" in cell or "tag device" in cell for cell in om)
    report = collect(small)
    assert f'<td class="r u">{report.count("passed", "emulated")}<br><small class=u><i lang=en>unproven' in page


def test_every_failure_says_what_to_do_next(page, small):
    failed = [record for record in small if isinstance(record, GateRecord) and record.verdict == "failed"]
    assert failed
    top = page[page.index('id="failed"') : page.index('id="overview"')]
    for gate in failed:
        assert f"<code>{gate.check}</code>" in top
    boxes = re.findall(r'<div class="problem.*?</div>', page, re.S)
    assert boxes
    assert all(re.search(r"<p class=next><i lang=en>.+?</i><i lang=zh>.+?</i>", box) for box in boxes)


def test_failures_come_before_everything_else(page):
    assert page.index('id="failed"') < page.index('id="inconclusive"') < page.index('id="overview"')
    assert page.index('id="overview"') < page.index('class="model"')


def test_commands_are_given_as_one_would_type_them(page):
    assert "--data-dir &#39;/data/my models&#39;" in page
    # This version refuses the real toolchain, so the page may not tell to ask for it.
    assert "--toolchain cann" not in page
    assert "--board ssh://" in page
    assert "atc --framework=5 --model=resnet20.onnx" in page


def test_an_estimate_is_called_one(page):
    assert "≥ 0.061 ms, estimate" in page
    assert "≥ 0.061 ms，估算" in page


def hostile_run(factory, word):
    finding = Finding(word, "error", Message(word, {word: word}), word, {word: word})
    said = Message("store.unreadable", {"reason": word})
    yield dataclasses.replace(factory.run_record(word), command=(word, "pytest"), environment={word: {word: word}})
    yield factory.stage(word, word, word, findings=(finding,), command=(word,), details={word: [word]})
    for question in ("closeness", "accuracy", "latency", "export", word):
        for verdict in ("failed", "not_measured", "inconclusive", "passed"):
            yield factory.gate(
                word, word, question, f"{word}~{word}/{word}/{word}", 0.5, Limit("<=", 1), verdict, unit=word,
                message=said if verdict == "failed" else Message(word, {word: word}), digests={word: word},
                interval=(0.1, 0.9),
                details={
                    "dataset": word, "metric": word, "reference": 1, "candidate": word, "sample": word,
                    "metrics": {word: 1.0}, "bands": {"fused": word, "unfused": 1}, "p50_ms": word,
                    "disagreements": [{"image": word, "reference": word, "candidate": word}, word],
                    "pictures": [{"file": word, "caption": word}, {"file": word}, word, None],
                },
            )  # fmt: skip


@pytest.mark.parametrize("word", HOSTILE)
def test_hostile_names_stay_text(factory, word):
    page = render_html(collect(hostile_run(factory, word)), "en")
    plain = render_html(collect(hostile_run(factory, "harmless")), "en")
    seen, calm = Page(page), Page(plain)
    assert {tag for tag, _ in seen.elements} == {tag for tag, _ in calm.elements}
    assert sum(tag == "script" for tag, _ in seen.elements) == 1
    assert not [name for _, attributes in seen.elements for name in attributes if name.startswith("on")]
    assert not [attributes for tag, attributes in seen.elements if tag == "img"]
    assert "49" not in seen.text.split()
    assert len(page) < 400_000


def test_pictures_are_embedded_up_to_their_bounds(factory, tmp_path):
    names = []
    for index in range(15):
        name = f"pictures/{index}.webp"
        (tmp_path / "pictures").mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(WEBP + bytes([index]))
        names.append(name)
    records = list(factory.small_run(names))
    page = render_html(collect(records, tmp_path), "en")
    assert page.count("data:image/webp;base64,") == 12
    assert base64.b64encode(WEBP + b"\x00").decode() in page
    assert "<i lang=en>3 pictures are left out" in page


@pytest.mark.parametrize(
    "name", ["../secret.webp", "/etc/passwd", "missing.webp", "big.webp", "text.webp", "\x00", "."]
)
def test_only_small_pictures_of_the_run_are_embedded(tmp_path, name):
    folder = tmp_path / "run"
    folder.mkdir()
    (tmp_path / "secret.webp").write_bytes(WEBP)
    (folder / "big.webp").write_bytes(WEBP + bytes(PICTURE_BYTES))
    (folder / "text.webp").write_text("<svg onload=alert(1)>")
    (folder / "good.webp").write_bytes(WEBP)
    assert picture_uri(folder, "good.webp").startswith("data:image/webp;base64,")
    assert picture_uri(folder, name) is None
    assert picture_uri(None, "good.webp") is None


def test_a_link_out_of_the_run_is_not_followed(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (tmp_path / "secret.webp").write_bytes(WEBP)
    try:
        (folder / "link.webp").symlink_to(tmp_path / "secret.webp")
    except OSError:
        pytest.skip("no symbolic links here")
    assert picture_uri(folder, "link.webp") is None


def test_five_thousand_results_fit_two_megabytes(factory):
    page = render_html(collect(factory.large_run(5000)), "en")
    assert len(page.encode()) <= 2_000_000
    assert len(re.findall('<details class="card"', page)) == 200
    Page(page)


@pytest.mark.parametrize("each", [1, 7, 5000])
def test_five_thousand_results_fit_however_they_are_spread(factory, each):
    said = Message("pipeline.weights-absent", {"file": "a" * 40, "model": "m"})
    gates = [
        factory.gate(
            f"model_{index // each}", "fp16-bs1", "closeness", f"input-{index}/finite", 1.0, Limit("<=", 0), "failed",
            factory.EMULATOR, message=said,
        )
        for index in range(5000)
    ]  # fmt: skip
    page = render_html(collect([factory.run_record(), *gates]), "en")
    assert len(page.encode()) <= 2_000_000
    text = Page(page).text
    assert "5000 of 5000 gates failed." in text
    for index in (0, 2500, 4999):
        assert f"input-{index}/finite" in text
    assert "emulated" in text


def test_the_lines_of_a_large_page_are_text_in_columns(factory):
    hostile = "</pre><b>\x01\n\u202e" + "x" * 80
    gates = [
        factory.gate(
            "m", "fp16-bs1", "closeness", name, value, Limit(">=", 0.99), verdict, provenance, unit=unit
        )
        for name, value, verdict, provenance, unit in (
            ("a/cosine", 0.98999999, "failed", factory.EMULATOR, ""),
            (hostile, 0.99, "passed", factory.HOST, "<i>"),
            ("b", 1.0, "passed", factory.DOUBLE, ""),
        )
    ]  # fmt: skip
    lines = str(gate_lines(gates, lambda gate: f"! {gate.ground}", ("failed",))).split("\n")
    assert len(lines) == 3
    assert lines[0].startswith("<b class=f>a/cosine ")
    assert lines[0].endswith("! emulated</b>")
    assert "0.98999999 ≥ 0.99" in lines[0]
    assert lines[1].startswith("&lt;/pre&gt;&lt;b&gt;\\x01\\n\\u202e")
    assert "<" not in lines[1]
    assert lines[2].split() == ["b", "1", "≥", "0.99", "!", "double"]


def test_a_page_that_leaves_details_out_says_so(factory):
    page = render_html(collect(factory.large_run(2000)), "en")
    assert "left out; evidence.jsonl contains them all" in page
    assert len(page.encode()) <= PAGE_BYTES


def test_render_writes_the_page_and_both_tables(small, tmp_path):
    evidence.EvidenceFile(tmp_path / "evidence.jsonl").append(small)
    (tmp_path / "log.html").write_text("log")
    page = render(tmp_path, tmp_path, "zh")
    assert page == tmp_path / "index.html"
    text = page.read_text(encoding="utf-8")
    assert 'href="log.html"' in text
    assert 'href="evidence.jsonl"' in text
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "evidence.jsonl", "index.html", "log.html", "results.md", "results.zh.md",
    ]  # fmt: skip


def test_no_link_to_what_is_not_there(small, tmp_path):
    text = render(small, tmp_path / "page.html").read_text(encoding="utf-8")
    assert "log.html" not in text
    assert "results.md" not in text
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


def test_empty_evidence_is_no_report(tmp_path):
    (tmp_path / "evidence.jsonl").touch()
    with pytest.raises(DataError, match="no record"):
        render(tmp_path, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["evidence.jsonl"]


def test_a_run_without_gates_is_a_report(factory, tmp_path):
    text = render([factory.run_record()], tmp_path / "a.html").read_text(encoding="utf-8")
    assert "Nothing was measured." in text


def test_a_report_that_cannot_be_written_leaves_the_old_one(small, tmp_path, monkeypatch):
    target = tmp_path / "index.html"
    target.write_text("old")

    def full(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", full)
    with pytest.raises(DataError, match="No space left"):
        render(small, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["index.html"]
    assert target.read_text() == "old"


def test_the_headline_never_calls_an_emulated_run_proven(factory):
    emulated = factory.gate(
        "m", "v", "closeness", "onnx~om/x/cosine", 1.0, Limit(">=", 0.9), "passed", factory.EMULATOR
    )
    text = Page(render_html(collect([emulated]), "en")).text
    assert "1 of 1 gate passed without an NPU and are unproven." in text
    device = dataclasses.replace(emulated, ground="device", provenance=factory.DEVICE)
    text = Page(render_html(collect([device]), "en")).text
    assert "All 1 measured gates passed." in text
    assert "unproven" not in text.replace("passed, unproven ✗", "").split("Models and questions")[0]


def test_an_error_finding_without_a_gate_is_still_a_failure(factory):
    finding = Finding("x.y", "error", Message("store.unreadable", {"reason": "because"}))
    stage = factory.stage("m", "v", "om", findings=(finding,))
    assert isinstance(stage, StageRecord)
    text = Page(render_html(collect([factory.run_record(), stage]), "en")).text
    assert "1 finding is an error" in text
    assert "because" in text


def test_one_error_that_stops_many_questions_is_said_once(factory):
    said = Message("export.no-opset", {"tried": "17: aten::channel_shuffle is not supported"})
    gates = [
        factory.gate("m", variant, question, f"{question}/test", None, None, "failed", message=said)
        for variant in ("fp16-bs1", "origin-bs1")
        for question in ("export", "closeness", "accuracy")
    ]
    page = render_html(collect([factory.run_record(), *gates]), "en")
    top = page[page.index('id="failed"') : page.index('id="overview"')]
    assert top.count("<i lang=en>This net cannot be exported with any opset") == 1
    for word in ("m-fp16-bs1", "m-origin-bs1", "export/test", "closeness/test", "accuracy/test"):
        assert word in top


def test_figures_of_random_weights_are_not_taken_for_the_models(factory):
    told = Message("pipeline.seeded", {"file": "net.pt", "model": "net"})
    export = factory.stage("net", "bs1", "onnx", findings=(Finding("checkpoint.seeded", "warning", told),))
    gate = factory.gate(
        "net", "int8-bs1", "closeness", "onnx~om/y/cosine", 0.999, Limit(">=", 0.99), "passed", factory.EMULATOR
    )
    page = render_html(collect([export, gate]), "en")
    card = page[page.index("int8-bs1</span>") :]
    assert "seeded random weights are used instead" in card
    assert "seeded random" not in render_html(collect([factory.stage("net", "bs1", "onnx"), gate]), "en")
