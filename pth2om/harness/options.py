"""What a run was asked: the options of the pytest plugin, read, checked and made into settings."""

from __future__ import annotations

import difflib
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pth2om.harness import machines
from pth2om.language import say
from pth2om.release import status

if TYPE_CHECKING:
    from pth2om.conversion.settings import RunSettings
    from pth2om.release.regression import Judge

_MOST_WORDS = 12  # known names that a sentence lists


def add(parser: pytest.Parser) -> None:
    """Tell pytest the options.

    Four are short, because people type them every day; the others start with ``--om-``, so that they never take a name
    that another project's conftest or plugin wants.
    """
    group = parser.getgroup("pth2om", "pth2om: PyTorch -> ONNX -> OM acceptance")
    add = group.addoption
    add("--om-models", metavar="DIR", default=None, help="folder of specs (default: models)")
    add("--soc", metavar="NAME", default=None, help="SoC to compile for, e.g. Ascend310B1; without it OM rows skip")
    add(
        "--fail-on",
        metavar="LIST",
        default=status.DEFAULT,
        help=f"what makes the run exit with an error: {', '.join(status.WORDS)} (default: {status.DEFAULT})",
    )
    add("--baseline", metavar="FILE", default=None, help="compare with this baseline: the question regression")
    add("--om-waivers", metavar="FILE", default=None, help="waivers (default: waivers.toml)")
    add(
        "--om-toolchain",
        metavar="NAME",
        default=None,
        help="who compiles and runs the OM (default: cann with --board, else emulator)",
    )
    add(
        "--om-cann",
        metavar="VERSION",
        default=None,
        help="whose rules hold: 7.0, 8.0 or 9.x (default: the board's, else 9.x)",
    )
    machines.add(group)
    add("--om-precision", metavar="LIST", default=None, help="only these precisions, e.g. fp16,int8")
    add("--om-batch", metavar="LIST", default=None, help="only these batch sizes, e.g. 1,4")
    add("--om-shard", metavar="K/N", default=None, help="only the K-th of N shares of the models, for a CI's matrix")
    add("--om-subset", metavar="N", type=int, default=None, help="at most N labelled images per dataset")
    add("--om-weights", metavar="NAME=FILE", action="append", default=[], help="checkpoint of a model (repeatable)")
    add("--om-dataset", metavar="NAME=DIR", action="append", default=[], help="folder of a dataset (repeatable)")
    add("--om-data-dir", metavar="DIR", action="append", default=[], help="look here for weights and data (repeatable)")
    add("--om-trust", metavar="NAME", action="append", default=[], help="run the pickled architecture of this model")
    add(
        "--om-dry-run",
        action="store_true",
        default=False,
        help="print what would run and the atc commands",
    )
    add(
        "--om-reports-dir",
        metavar="DIR",
        default=None,
        help="where a run's report goes (default: reports)",
    )
    add("--om-ort-providers", metavar="LIST", default="CPUExecutionProvider", help="ONNX Runtime providers")
    add("--om-threads", metavar="N", type=int, default=None, help="threads of PyTorch and ONNX Runtime")
    add("--om-remeasure", action="store_true", default=False, help="time again instead of showing the stored latency")


def check(config: pytest.Config, asked: RunSettings, models: Sequence[str], datasets: Sequence[str]) -> None:
    """Refuse what would be passed over in silence, its figures then taken for those that were asked for.

    Args:
        config: of the run.
        asked: its settings.
        models: names of the specs.
        datasets: names of the datasets there are.

    Raises:
        UsageError: a name that nothing here has, with the nearest one.
    """
    from pth2om.spec import PRECISION_MODES
    from pth2om.toolchain import choosing

    named = {
        "--om-weights": (asked.weights, models),
        "--om-trust": (asked.trust, models),
        "--om-dataset": (asked.datasets, datasets),
        "--om-toolchain": ([asked.toolchain], choosing.names()),
        "--om-precision": (words(config.getoption("--om-precision")), sorted(PRECISION_MODES)),
    }
    for option, (given, known) in named.items():
        for word in given:
            if word not in known:
                raise pytest.UsageError(_unknown(option, word, known))
    for option, number in (("--om-subset", asked.subset), ("--om-threads", asked.threads)):
        if number is not None and number < 1:
            raise pytest.UsageError(say("plugin.not-positive", option=option, number=number).render())
    from pth2om.ascend.target import Target
    from pth2om.errors import ToolchainError

    try:
        Target.of(asked.soc, asked.cann)
    except ToolchainError as error:
        option = "--om-cann" if error.message.key == "ascend.cann-version" else "--soc"
        raise pytest.UsageError(f"{option}: {error}") from None


def settings(config: pytest.Config, models: Path) -> RunSettings:
    """The settings of a run.

    Raises:
        UsageError: an option that takes ``NAME=PATH`` has something else, or a path that is not there.
    """
    from pth2om.conversion.settings import RunSettings
    from pth2om.host import data_roots

    roots = [config.invocation_params.dir / Path(folder).expanduser() for folder in config.getoption("--om-data-dir")]
    for root in roots:
        if not root.is_dir():
            raise pytest.UsageError(say("plugin.no-such-path", option="--om-data-dir", path=str(root)).render())
    roots += data_roots()
    return RunSettings(
        models=models,
        calib=models.parent / "calib",
        data_roots=tuple(roots),
        soc=config.getoption("--soc"),
        toolchain=machines.toolchain(config),
        cann=config.getoption("--om-cann") or "9.x",
        access=machines.access(config),
        weights=_named_paths(config, "--om-weights"),
        datasets=_named_paths(config, "--om-dataset"),
        trust=frozenset(config.getoption("--om-trust")),
        subset=config.getoption("--om-subset"),
        threads=config.getoption("--om-threads"),
        providers=tuple(words(config.getoption("--om-ort-providers"))),
        run=str(getattr(config, "workerinput", {}).get("testrunuid") or uuid.uuid4().hex),
    )


def baseline(config: pytest.Config) -> Judge | None:
    """What compares the run with ``--baseline``; None without.

    Raises:
        UsageError: the file is no baseline, or one of another SoC.
    """
    asked = config.getoption("--baseline")
    if not asked:
        return None
    from pth2om.errors import DataError
    from pth2om.release import baseline
    from pth2om.release.regression import Judge
    from pth2om.release.results import Results
    from pth2om.store import Store

    try:
        found = baseline.read(config.invocation_params.dir / Path(asked).expanduser())
        soc = config.getoption("--soc")
        baseline.check_soc(found, [soc] if soc else [], asked)
        return Judge(found, Results(Store()))
    except DataError as error:
        raise pytest.UsageError(f"--baseline: {error}") from None


def words(text: str | None, *, digits: bool = False) -> list[str]:
    """The words of a list with commas; with `digits` only positive numbers.

    Raises:
        UsageError: a word that is none.
    """
    found = [word.strip() for word in (text or "").split(",") if word.strip()]
    for word in found:
        if digits and not (word.isdigit() and int(word) > 0):
            raise pytest.UsageError(say("plugin.not-a-number", text=word).render())
    return found


def filters(config: pytest.Config) -> str:
    """``--om-precision fp16 --om-batch 4`` as asked."""
    asked = {name: config.getoption(name) for name in ("--om-precision", "--om-batch")}
    return " ".join(f"{name} {value}" for name, value in asked.items() if value)


def fail_on(config: pytest.Config) -> frozenset[str]:
    """The words of ``--fail-on``.

    Raises:
        UsageError: a word that it does not know.
    """
    given = words(config.getoption("--fail-on"))
    for word in given:
        if word not in status.WORDS:
            raise pytest.UsageError(_unknown("--fail-on", word, status.WORDS))
    return frozenset(given)


def _named_paths(config: pytest.Config, option: str) -> dict[str, Path]:
    named = {}
    for text in config.getoption(option):
        name, equals, path = text.partition("=")
        full = config.invocation_params.dir / Path(path).expanduser()
        if not equals or not name or not path:
            raise pytest.UsageError(say("plugin.not-named", option=option, text=text).render())
        if not full.exists():
            raise pytest.UsageError(say("plugin.no-such-path", option=option, path=str(full)).render())
        named[name] = full
    return named


def _unknown(option: str, word: str, known: Sequence[str]) -> str:
    """The sentence about a word that an option does not know, with the nearest it does."""
    nearest = difflib.get_close_matches(word, known, 1, cutoff=0.4)
    key = "plugin.unknown-word-nearest" if nearest else "plugin.unknown-word"
    words = ", ".join(known[:_MOST_WORDS]) + (", ..." if len(known) > _MOST_WORDS else "")
    return say(key, option=option, word=word, nearest=nearest[0] if nearest else "", words=words or "-").render()
