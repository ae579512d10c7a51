"""Outputs of msame and ais_bench against labels; the results of batch sizes and their table."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from pth2om.cli import main
from pth2om.errors import DataError
from pth2om.offline.results import BatchResult, modelzoo_table, read_result, write_result
from pth2om.offline.scoring import read_labels, score_outputs

CLASSES = 10


@pytest.fixture
def logits() -> np.ndarray:
    return np.random.default_rng(3).standard_normal((10, CLASSES)).astype(np.float32)


@pytest.fixture
def labels(tmp_path: Path, logits: np.ndarray) -> Path:
    """Seven of ten are right; image 9 is right only among the best five."""
    best = logits.argsort(1)[:, ::-1]
    truth = [int(best[k, 0]) for k in range(7)] + [int(best[7, 9]), int(best[8, 7]), int(best[9, 3])]
    path = tmp_path / "val_label.txt"
    path.write_text(
        "".join(f"ILSVRC2012_val_{k:08d}.JPEG {label}\n" for k, label in enumerate(truth)), encoding="utf-8"
    )
    return path


def numbered(folder: Path, logits: np.ndarray, batch: int, form: str) -> Path:
    folder.mkdir(parents=True)
    filled = np.concatenate([logits, np.repeat(logits[-1:], -len(logits) % batch, 0)])
    for k in range(len(filled) // batch):
        rows = filled[k * batch : (k + 1) * batch]
        if form == "txt":
            text = " ".join(f"{value:.9g}" for value in rows.ravel())
            (folder / f"input_{k:05d}_output_0.txt").write_text(text, encoding="ascii")
        elif form == "npy":
            np.save(folder / f"input_{k:05d}_0.npy", rows)
        else:
            rows.tofile(folder / f"input_{k:05d}_0.bin")
    return folder


@pytest.mark.parametrize("form", ["txt", "bin", "npy"])
@pytest.mark.parametrize("batch", [1, 4])
def test_every_form_and_batch_gives_the_same_score(
    tmp_path: Path, logits: np.ndarray, labels: Path, form: str, batch: int
) -> None:
    score = score_outputs(numbered(tmp_path / "out", logits, batch, form), read_labels(labels), batch)
    assert (score.images, score.right1, score.right5, score.absent) == (10, 7, 8, 0)
    low, high = score.interval
    assert (low, high) == pytest.approx((34.75, 93.33), abs=0.01)  # scipy.stats.binomtest(7, 10).proportion_ci()


def test_what_fills_the_last_batch_is_not_counted(tmp_path: Path, logits: np.ndarray, labels: Path) -> None:
    """Ten images at batch 4 leave two places, filled with an image that would be wrong twice more."""
    assert score_outputs(numbered(tmp_path / "out", logits, 4, "bin"), read_labels(labels), 4).images == 10


def test_outputs_named_like_images_are_found_by_name(tmp_path: Path, logits: np.ndarray, labels: Path) -> None:
    folder = tmp_path / "out" / "2026_01_02-03_04_05"
    folder.mkdir(parents=True)
    for k in reversed(range(10)):
        logits[k].tofile(folder / f"ILSVRC2012_val_{k:08d}_0.bin")
    assert score_outputs(tmp_path / "out", read_labels(labels), 1).right1 == 7


def test_absent_and_broken_outputs_are_wrong_and_counted(tmp_path: Path, logits: np.ndarray, labels: Path) -> None:
    logits[1, 3] = np.nan
    folder = numbered(tmp_path / "out", logits, 1, "bin")
    (folder / "input_00000_0.bin").unlink()
    score = score_outputs(folder, read_labels(labels), 1)
    assert (score.images, score.right1, score.absent, score.not_finite) == (10, 5, 1, 1)


def test_constant_outputs_recognize_nothing_but_their_first_class(tmp_path: Path, logits: np.ndarray) -> None:
    folder = numbered(tmp_path / "out", np.zeros_like(logits), 1, "bin")
    score = score_outputs(folder, {str(k): k for k in range(10)}, 1)
    assert (score.right1, score.right5) == (1, 5)


@pytest.mark.parametrize("damage", ["odd", "text", "classes", "empty", "other"])
def test_damaged_outputs_are_refused(tmp_path: Path, logits: np.ndarray, labels: Path, damage: str) -> None:
    folder = numbered(tmp_path / "out", logits, 1, "bin")
    path = folder / "input_00004_0.bin"
    contents = {"odd": b"12345", "text": b"", "classes": bytes(12), "empty": b"", "other": bytes(4 * CLASSES + 4)}
    if damage == "text":
        path = folder / "input_00004_0.txt"
        (folder / "input_00004_0.bin").unlink()
        path.write_text("1 2 three", encoding="utf-8")
    else:
        path.write_bytes(contents[damage])
    with pytest.raises(DataError, match=re.escape(str(path))):
        score_outputs(folder, read_labels(labels), 1)


@pytest.mark.parametrize("text", ["", "a b c\n", "a.jpg -1\n", "a.jpg 1\na.png 2\n", "x\n"])
def test_labels_that_are_none_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "labels.txt"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError):
        read_labels(path)


def test_a_result_reads_back(tmp_path: Path) -> None:
    result = BatchResult(4, 67.3, 59.4, 81.35, 95.6, (81.0, 81.7), 50000, 0, 3, "msame")
    write_result(tmp_path / "result_bs4.json", result)
    assert read_result(tmp_path / "result_bs4.json") == result


def test_the_table_names_the_best_batch_and_escapes_names() -> None:
    results = [BatchResult(4, fps=72.727, top1=81.35), BatchResult(1, fps=67.114, top1=81.35), BatchResult(8)]
    table = modelzoo_table(results, "310|P3", "<b>")
    lines = table.splitlines()
    assert [line.split(" | ")[1] for line in lines[2:5]] == ["1", "4", "8"]
    assert "Best batch size: 4 (72.73 fps)" in table
    assert "310\\|P3" in table
    assert "<b>" not in table
    assert "not measured by pth2om" in table


def test_the_published_chain(
    tmp_path: Path, logits: np.ndarray, labels: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Log and outputs of batch 1 and 4, as the published scripts leave them; then the table from the results alone."""
    logs = []
    for batch, ms in ((1, 14.9), (4, 55.0)):
        numbered(tmp_path / f"outputs_bs{batch}_om", logits, batch, "txt")
        log = tmp_path / f"msame_bs{batch}.txt"
        log.write_text(f"Inference average time : {ms} ms\n", encoding="utf-8")
        logs += [str(log), str(tmp_path / f"outputs_bs{batch}_om")]
    out = tmp_path / "results"
    assert main(["parse", *logs, "--labels", str(labels), "-o", str(out), "--soc", "Ascend310P3"]) == 0
    first = capsys.readouterr().out
    assert "| Ascend310P3 | 1 | - | Top1 70.00% [34.75, 93.33]; Top5 80.00% | 67.11 fps |" in first
    assert "Best batch size: 4 (72.73 fps)" in first
    kept = sorted(str(path) for path in out.iterdir())
    assert main(["parse", *kept, "--soc", "Ascend310P3"]) == 0
    assert capsys.readouterr().out == first


def test_missing_outputs_are_not_success(
    tmp_path: Path, logits: np.ndarray, labels: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = numbered(tmp_path / "bs1", logits[:8], 1, "bin")
    assert main(["parse", str(folder), "--labels", str(labels)]) == 1
    assert "2 of 10 images have no output" in capsys.readouterr().out
    assert main(["parse", str(folder)]) == 1
    assert "--labels" in capsys.readouterr().err


def test_outputs_with_nan_are_not_success(
    tmp_path: Path, logits: np.ndarray, labels: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logits[1, 3] = np.nan
    folder = numbered(tmp_path / "bs1", logits, 1, "bin")
    assert main(["parse", str(folder), "--labels", str(labels)]) == 1
    assert "1 of 10 images have NaN" in capsys.readouterr().out
