"""PyTorch -> TorchScript: what is traced, what is scripted, and what the findings name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pth2om import torchscript
from pth2om.errors import ExportError
from pth2om.sessions.torchscript import torchscript_session
from pth2om.spec import Input
from pth2om.spec.torchscript import TorchScript

INPUTS = (Input(name="INPUT__0", shape=(1, 4, 4, 4), range=(-1.0, 1.0)),)


class Plain(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv3d(1, 2, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


class Branching(Plain):
    """An if on the data: a trace freezes it, a script does not."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.mean() > 0:
            return self.conv(x)
        return -10.0 * self.conv(x)


class ThirdParty(Plain):
    """NumPy in forward, and an if: neither a trace nor a script is right."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if float(np.mean(x.detach().numpy())) > 0:
            return self.conv(x)
        return -10.0 * self.conv(x)


class Decoder(torch.nn.Module):
    deep_supervision = True


class Deep(Plain):
    def __init__(self, v1: bool) -> None:
        super().__init__()
        if v1:
            self.do_ds = True
        else:
            self.decoder = Decoder()

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = self.conv(x)
        return y, y[..., ::2]


def made(module: torch.nn.Module, folder: Path, **table) -> torchscript.Made:
    torch.manual_seed(0)
    return torchscript.make(module.eval(), INPUTS, TorchScript(**table), 1, folder / "program.pt")


def rules(found: torchscript.Made) -> dict[str, str]:
    return {finding.rule.removeprefix("torchscript."): finding.severity for finding in found.findings}


def test_a_plain_net_is_traced_and_has_its_twin(tmp_path: Path) -> None:
    module = Plain().eval()
    found = made(module, tmp_path)
    assert (found.method, found.outputs) == ("trace", 1)
    assert found.mean_error == 0
    assert found.twin_error == pytest.approx(0, abs=1e-6)
    assert (tmp_path / torchscript.TWIN).is_file()
    assert rules(found) == {"deprecated": "info"}
    feeds = {"INPUT__0": np.random.default_rng(0).standard_normal((1, 1, 4, 4, 4)).astype(np.float32)}
    with torchscript_session(tmp_path / "program.pt", INPUTS, ["OUTPUT__0"], digest="d") as session:
        assert session.provenance.name == "torchscript"
        got = session.run(feeds)["OUTPUT__0"]
    assert np.allclose(got, module(torch.from_numpy(feeds["INPUT__0"])).detach().numpy(), atol=1e-6)


def test_a_data_dependent_if_is_scripted_and_named(tmp_path: Path) -> None:
    found = made(Branching(), tmp_path)
    assert found.method == "script"
    assert found.mean_error <= 1e-6
    assert rules(found)["data-dependent"] == "warning"
    assert rules(found)["scripted"] == "info"
    place = next(finding.message.values["place"] for finding in found.findings if "place" in finding.message.values)
    assert str(place).startswith("test_torchscript.py:")


def test_a_frozen_trace_is_an_error(tmp_path: Path) -> None:
    found = made(Branching(), tmp_path, method="trace")
    assert found.method == "trace"
    assert rules(found)["frozen"] == "error"


def test_nothing_of_pytorch_reaches_the_terminal(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Where ``torch.export`` gives up at a data-dependent if, it prints the graph by its loggers."""
    found = made(Branching(), tmp_path)
    assert rules(found)["no-twin"] == "info"
    assert capfd.readouterr() == ("", "")


def test_third_party_calls_are_explained(tmp_path: Path) -> None:
    found = made(ThirdParty(), tmp_path)
    assert rules(found)["no-script"] == "warning"
    frozen = next(each for each in found.findings if each.rule == "torchscript.frozen")
    assert frozen.severity == "error"
    assert "method" not in str(frozen.message.fix())  # a script is no way out here
    with pytest.raises(ExportError) as caught:
        made(ThirdParty(), tmp_path, method="script")
    assert caught.value.message.key == "torchscript.impossible"


@pytest.mark.parametrize(("v1", "switch"), [(True, "do_ds"), (False, "decoder.deep_supervision")])
def test_several_outputs_name_their_switch(tmp_path: Path, v1: bool, switch: str) -> None:
    found = made(Deep(v1), tmp_path)
    assert found.outputs == 2
    finding = next(each for each in found.findings if each.rule == "torchscript.deep-supervision")
    assert finding.message.values["switch"] == switch


def test_a_given_program_is_taken_as_it_is(tmp_path: Path) -> None:
    traced = torch.jit.trace(Plain().eval(), torch.zeros(1, 1, 4, 4, 4))
    found = made(traced, tmp_path)
    assert (found.method, found.mean_error, found.twin_error) == ("given", 0, None)
    assert rules(found)["no-twin"] == "info"
