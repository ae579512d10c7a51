"""The command line: ``pth2om VERB ...``; one module a verb, imported only when its verb is typed.

A verb's module ``pth2om/cli/<verb>.py`` holds two functions and no logic of its own::

    def configure(parser: argparse.ArgumentParser) -> None: ...
    def run(arguments: argparse.Namespace) -> int: ...      # the exit status

The one-line help of each verb is ``[help.<verb>]`` in ``messages/cli.toml``.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

from pth2om import __version__
from pth2om.cli.parsing import Parser
from pth2om.errors import Pth2omError, reason_of
from pth2om.escaping import visible
from pth2om.language import say
from pth2om.terminal import prepare_streams

VERBS = (
    "gui",
    "init",
    "convert",
    "check",
    "atc",
    "fix",
    "draw",
    "torchscript",
    "quantize",
    "amct_onnx",
    "bins",
    "golden",
    "evaluate",
    "parse",
    "aipp",
    "inspect",
    "doctor",
    "explain",
    "fetch",
    "report",
    "baseline",
    "compare",
    "waivers",
    "signoff",
    "verify",
    "bundle",
    "history",
    "ci",
    "store",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb.

    Args:
        argv: arguments after the program's name; default the process's.

    Returns:
        The exit status: 0 done, 1 the verb's own "no", 2 a mistake in the call, 130 interrupted.
    """
    prepare_streams()
    words = list(sys.argv[1:] if argv is None else argv)
    verb = words[0] if words and words[0] in VERBS else None
    parser = Parser(prog="pth2om", description=say("cli.description").render())
    parser.add_argument("--version", action="version", version=f"pth2om {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for name in VERBS:
        help_text = say(f"cli.help-{name}").render()
        verb_parser = verbs.add_parser(name, help=help_text, description=help_text)
        if name == verb:
            importlib.import_module(f"pth2om.cli.{name}").configure(verb_parser)
    arguments = parser.parse_args(words)
    module = importlib.import_module(f"pth2om.cli.{arguments.verb}")
    try:
        status: int = module.run(arguments)
    except Pth2omError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(say("cli.interrupted"), file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader (head, less) went away; there is nobody left to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] == "pth2om":
            raise
        print(say("cli.not-installed", name=error.name).with_fix(), file=sys.stderr)
        return 1
    except OSError as error:
        if error.errno is None:
            raise
        place = visible(str(error.filename)) if error.filename else f"pth2om {arguments.verb}"
        print(say("cli.system", where=place, reason=reason_of(error)).with_fix(), file=sys.stderr)
        return 1
    return status
