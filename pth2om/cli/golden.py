"""``pth2om golden MODEL --inputs FOLDER [--outputs FOLDER]``: inputs for a board, and the outputs that come back."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pth2om.language import say


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("model", type=Path, help=say("golden.help-model").render())
    parser.add_argument("--inputs", type=Path, required=True, metavar="DIR", help=say("golden.help-inputs").render())
    parser.add_argument("--outputs", type=Path, metavar="DIR", help=say("golden.help-outputs").render())
    parser.add_argument("--batch", type=int, help=say("golden.help-batch").render())
    parser.add_argument("--variant", metavar="NAME", help=say("golden.help-variant").render())
    parser.add_argument(
        "--reports", type=Path, default=Path("reports"), metavar="DIR", help=say("golden.help-reports").render()
    )
    parser.add_argument("--calib", type=Path, default=Path("calib"), help=say("golden.help-calib").render())
    parser.add_argument("--data-dir", type=Path, action="append", metavar="DIR", help=say("starter.help-data").render())


def run(arguments: argparse.Namespace) -> int:
    """Write the inputs, or compare the outputs; 1 unless every gate that decides passed."""
    from pth2om.conversion.pipeline import Pipeline, RunSettings
    from pth2om.evidence import Record, SpecText
    from pth2om.host import data_roots
    from pth2om.questions.golden import chosen, compare_outputs, hand_out, planned
    from pth2om.report.lines import line_of
    from pth2om.report.recording import record_run
    from pth2om.spec import load
    from pth2om.store import Store

    folder = arguments.model.parent if arguments.model.name == "model.toml" else arguments.model
    settings = RunSettings(folder.parent, arguments.calib, (*(arguments.data_dir or ()), *data_roots()))
    spec = load(folder)
    pipeline = Pipeline(spec, settings, Store())
    try:
        if arguments.outputs is None:
            handed = hand_out(chosen(pipeline, arguments.variant, arguments.batch), arguments.inputs)
            print(say("golden.written", batches=handed.batches, inputs=len(handed.folders), record=str(handed.record)))
            for command in handed.commands:
                print(command)
            return 0
        found = compare_outputs(pipeline, arguments.inputs, arguments.outputs)
    finally:
        pipeline.close()
    print(say("golden.origin"))
    for gate in found.gates:
        print(f"{say(f'golden.verdict-{gate.verdict}').render()}  {line_of(gate)}")
    records: list[Record] = [*pipeline.records.values(), *found.gates]
    texts = [SpecText(spec.name, spec.digest, spec.text)] if spec.text else []
    words = ["pth2om", *sys.argv[1:]]
    page = record_run(arguments.reports, f"golden-{spec.name}", words, planned(found.subject), records, texts)
    print(say("report.written", path=str(page)))
    return int(any(gate.verdict not in ("passed", "shown") for gate in found.gates))
