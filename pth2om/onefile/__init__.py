"""One file to a checked OM: ``pth2om convert FILE --soc NAME``, and `convert` for Python and for a window.

Nothing is implemented twice. A conversion

1. drafts a spec from the file, with the code of ``pth2om init`` (`pth2om.drafting`), in a scratch folder (`preparing`),
2. opens the `pth2om.conversion.pipeline.Pipeline` of that spec,
3. asks the questions of an acceptance run, in the order of ``test_cases/`` (`asking`),
4. copies what the stages made into the output folder, with a record of all of it (`delivering`),
5. where that is wanted, writes the spec into a repository of models, so that pytest asks the same again (`preparing`).

What is wrong with the file or the options is an error, raised before anything is converted. What goes wrong later is a
gate of the `Conversion`: one that failed, or was not reached. `advice` knows the next command after either.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pth2om.onefile.options import Options

if TYPE_CHECKING:
    from pathlib import Path

    from pth2om.onefile.conversion import Conversion
    from pth2om.progress import Progress

__all__ = ["Options", "convert"]


def convert(
    file: Path, soc: str | None = None, options: Options | None = None, *, progress: Progress | None = None
) -> Conversion:
    """`pth2om.onefile.conversion.convert`, whose module is imported when it is called."""
    from pth2om.onefile.conversion import convert as run

    return run(file, soc, options, progress=progress)
