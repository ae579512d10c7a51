"""The atc line of a conversion before it runs: ``pth2om convert FILE ... --preview``."""

from __future__ import annotations

import tempfile
from pathlib import Path

from pth2om.conversion.pipeline import Pipeline, RunSettings
from pth2om.escaping import shell_line
from pth2om.onefile import delivering, preparing
from pth2om.onefile.conversion import atc_command
from pth2om.onefile.options import Options
from pth2om.store import Store


def preview(file: Path, soc: str | None, options: Options) -> str:
    """The atc line that `pth2om.onefile.convert` would print; empty where nothing is compiled.

    The file is read and the options are checked as by the conversion. Nothing is exported, asked or written.

    Args:
        file: as of the conversion.
        soc: likewise.
        options: likewise.

    Raises:
        Pth2omError: the file or the options are not usable.
    """
    options.check()
    name = preparing.name_for(file, options)
    names = delivering.Names((options.output or Path(f"{name}-converted")).absolute(), name, options.quantizes)
    with tempfile.TemporaryDirectory(prefix="pth2om-") as folder:
        scratch = Path(folder)
        settings = RunSettings(
            models=scratch / "models",
            calib=scratch / "calib",
            data_roots=options.data_roots,
            soc=soc,
            toolchain=options.chosen_toolchain,
            cann=options.cann,
            trust=frozenset({name}) if options.trust else frozenset(),
        )
        assert settings.target  # an unknown SoC is reported now
        prepared = preparing.prepare(file, options, scratch)
        if soc is None:
            return ""
        pipeline = Pipeline(prepared.spec, settings, Store())
        try:
            model = names.folder / f"{name}_deploy_model.onnx" if options.quantizes else names.onnx
            return shell_line(atc_command(pipeline, prepared, names, model)[0])
        finally:
            pipeline.close()
