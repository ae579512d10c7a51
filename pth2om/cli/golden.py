"""``pth2om golden MODEL --inputs FOLDER [--outputs FOLDER]``: inputs for a board, and the outputs that come back."""

from __future__ import annotations

import argparse
from pathlib import Path

from pth2om.language import say


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("model", type=Path, help=say("golden.help-model").render())
    parser.add_argument("--inputs", type=Path, required=True, metavar="DIR", help=say("golden.help-inputs").render())
    parser.add_argument("--outputs", type=Path, metavar="DIR", help=say("golden.help-outputs").render())
    parser.add_argument("--batch", type=int, help=say("golden.help-batch").render())
    parser.add_argument("--calib", type=Path, default=Path("calib"), help=say("golden.help-calib").render())
    parser.add_argument("--data-dir", type=Path, action="append", metavar="DIR", help=say("starter.help-data").render())


def run(arguments: argparse.Namespace) -> int:
    """Write the inputs, or compare the outputs; 1 unless every gate that decides passed."""
    from pth2om.conversion.pipeline import Pipeline, RunSettings
    from pth2om.errors import DataError
    from pth2om.host import data_roots
    from pth2om.questions.golden import compare_outputs, hand_out
    from pth2om.report.lines import line_of
    from pth2om.spec import load
    from pth2om.store import Store

    folder = arguments.model.parent if arguments.model.name == "model.toml" else arguments.model
    if arguments.batch is not None and arguments.batch < 1:
        raise DataError("golden.wrong-batch", value=arguments.batch)
    settings = RunSettings(folder.parent, arguments.calib, (*(arguments.data_dir or ()), *data_roots()))
    pipeline = Pipeline(load(folder), settings, Store())
    try:
        if arguments.outputs is None:
            handed = hand_out(pipeline, arguments.batch or pipeline.spec.batches[0], arguments.inputs)
            print(say("golden.written", batches=handed.batches, inputs=len(handed.folders), record=str(handed.record)))
            for command in handed.commands:
                print(command)
            return 0
        gates = compare_outputs(pipeline, arguments.inputs, arguments.outputs)
    finally:
        pipeline.close()
    print(say("golden.origin"))
    for gate in gates:
        print(f"{say(f'golden.verdict-{gate.verdict}').render()}  {line_of(gate)}")
    return int(any(gate.verdict not in ("passed", "shown") for gate in gates))
