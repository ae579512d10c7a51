"""A night: accept against the baseline, then into the history; the first good night makes the baseline.

``python -m pth2om.harness.night WORDS`` takes pytest's command line; it is what ``make nightly`` runs. A night that was
killed is started again with the same words: its artifacts and measurements are in the store, so that it goes on where
it was, and only a run that came to its end gets into the history.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from pth2om.errors import DataError, Pth2omError
from pth2om.harness.watching import watch
from pth2om.language import say
from pth2om.release import history
from pth2om.release.night import read

REPORTS = Path("reports")
_EMULATED = "emulator"


def words_of(words: Sequence[str], root: Path) -> tuple[list[str], Path]:
    """The command line of a night's run, and the baseline of its SoC.

    Without ``--baseline`` that of the SoC is taken where there is one. On hardware latency is timed anew: the store's
    figure would be that of the first night for ever.

    Args:
        words: of pytest's command line.
        root: the repository.
    """
    told = list(words)
    baseline = REPORTS / "baselines" / f"{_value(told, '--soc') or 'host'}.json"
    if _value(told, "--baseline") is None and (root / baseline).is_file():
        told += ["--baseline", str(baseline)]
    hardware = _value(told, "--board") or (_value(told, "--om-toolchain") or _EMULATED) != _EMULATED
    if hardware and "--om-remeasure" not in told:
        told.append("--om-remeasure")
    return told, baseline


def _value(words: Sequence[str], option: str) -> str | None:
    """What an option was given last, as ``--soc X`` or ``--soc=X``."""
    found = None
    for number, word in enumerate(words):
        if word == option and number + 1 < len(words):
            found = words[number + 1]
        elif word.startswith(f"{option}="):
            found = word.partition("=")[2]
    return found


def main(words: Sequence[str], root: Path | None = None) -> int:
    """Run a night; the exit status is that of its run, or 1 where history or baseline could not be written."""
    root = root or Path()
    try:
        asked, baseline = words_of(words, root)
        run = watch(asked, root)
        if run.folder is None or not run.records:
            return run.exit_status
        if not run.complete:
            print(say("release.night-died", path=str(run.folder)).with_fix(), file=sys.stderr)
            return run.exit_status
        _keep(run.folder, root, baseline)
    except Pth2omError as error:
        print(error, file=sys.stderr)
        return 1
    return run.exit_status


def _keep(folder: Path, root: Path, baseline: Path) -> None:
    """Add the run to the history; make the baseline of it where there is none and it is good enough.

    Raises:
        DataError: history or baseline cannot be written.
    """
    from pth2om.report.trend import draw

    night = read(folder)
    places = history.append(night, root / REPORTS / "history")
    for page in draw(root / REPORTS / "history", {place.stem for place in places}):
        print(page)
    if (root / baseline).exists():
        return
    from pth2om.release import baseline as baselines
    from pth2om.release.needs import needs
    from pth2om.release.results import Results
    from pth2om.store import Store

    try:
        made = baselines.make([night], Results(Store()))
    except DataError as error:  # the night is not good enough
        print(error)
        return
    baselines.write(made, root / baseline)
    print(say("release.written", path=str(root / baseline), count=len(made.entries), runs=len(made.runs)))
    for line in needs(made):
        print(line)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
