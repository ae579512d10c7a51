"""A text model exported once for all lengths, and what is found when a length is written into its graph."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pth2om.checkpoint import load_net
from pth2om.export import Purpose, export
from pth2om.spec import Export, Gears, load

FOLDER = Path(__file__).parents[2] / "models" / "bert-tiny"
LENGTHS = Gears(dims=({"seq": 16}, {"seq": 32}))


class Frozen(torch.nn.Module):
    """Adds up to the traced length by a number where the model's code should read the input's size."""

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return ids.to(torch.float32).sum(1, keepdim=True) / int(ids.shape[1])


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
def test_one_file_for_all_lengths(tmp_path: Path, exporter: str) -> None:
    if exporter == "dynamo":
        pytest.importorskip("onnxscript")
    spec = load(FOLDER)
    gears = spec.variants[0].gears
    torch.manual_seed(0)
    module = load_net(FOLDER / "net.py").build(2).eval()
    table = Export(exporter=exporter, outputs=("logits",), opsets=(18,) if exporter == "dynamo" else (17, 13))
    made = export(module, spec.inputs, table, 1, tmp_path / "m.onnx", Purpose(gears))
    assert len(made.probes) == 2 + 2  # the traced length twice, the two others once
    assert max(made.probes) < 1e-4
    assert not [found.rule for found in made.findings if found.rule.startswith(("export.gear", "export.frozen"))]


def test_a_length_written_into_the_graph_is_found(tmp_path: Path) -> None:
    inputs = load(FOLDER).inputs[:1]
    made = export(Frozen().eval(), inputs, Export(), 1, tmp_path / "m.onnx", Purpose(LENGTHS))
    (found,) = [found for found in made.findings if found.rule == "export.gear-differs"]
    assert found.severity == "error"
    assert "seq16" in found.message.render()
