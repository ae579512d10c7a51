"""AMCT's own configuration files: what they ask for is done or named."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pth2om.errors import QuantizeError
from pth2om.quantize import fake_quant, integer, ranges
from pth2om.quantize.amct_config import read_config
from pth2om.quantize.network import open_session, run_session
from pth2om.quantize.plan import make_plan
from pth2om.quantize.record import read_records
from tests.quantize.quantize_nets import every_kind, feeds

CFG = """
batch_num : 2
activation_offset : true
skip_layers : "conv1"
skip_layer_types : "AveragePool"
common_config : { ifmr_quantize : { search_range_start : 0.5 search_range_end : 1.1 max_percentile : 0.99 } }
override_layer_types : { layer_type : "ConvTranspose" calibration_config : { hfmg_quantize : { num_of_bins : 1024 } } }
override_layer_types : { layer_type : "Relu6" calibration_config : { hfmg_quantize : { num_of_bins : 1024 } } }
override_layer_configs : {
  layer_name : "grouped"
  calibration_config : { arq_quantize : { channel_wise : false } ifmr_quantize : { asymmetric : false } }
}
override_layer_configs : { layer_name : "fc" calibration_config : { dmq_balancer : { migration_strength : 0.5 } } }
"""


def test_every_wish_of_a_cfg_is_granted_or_named(tmp_path):
    path = tmp_path / "q.cfg"
    path.write_text(CFG)
    config = read_config(path)
    settings, findings = config.settings()
    assert [finding.message.values["name"] for finding in findings] == ["layer_type: Relu6", "dmq_balancer"]
    assert (settings.ifmr.start, settings.ifmr.end, settings.ifmr.step) == (0.5, 1.1, 0.01)
    plan = make_plan(every_kind(), feeds(4), replace(settings, small_channels=True))
    names = set(plan.quantized)
    assert "conv1" not in names
    assert not any(layer.layer.kind == "AveragePool" for layer in plan.quantized.values())
    grouped = plan.quantized["grouped"]
    assert grouped.activation.offset == 0, "symmetric"
    assert grouped.scale.size == 1, "one scale for the whole weight"
    assert plan.quantized["dw"].scale.size > 1
    up = plan.quantized["up"]
    histogram = plan.calibration.histograms[up.layer.input]
    assert up.activation == ranges.search(histogram, "hfmg", bins=1024)
    assert plan.quantized["dw"].activation == ranges.search(
        plan.calibration.histograms[plan.quantized["dw"].layer.input], "ifmr", ifmr=settings.ifmr
    )
    deploy = plan.deploy()
    twin = run_session(open_session(fake_quant(deploy), exact=True), feeds(1)[0])
    whole = run_session(open_session(integer(deploy), exact=True), feeds(1)[0])
    assert all(np.array_equal(twin[name], whole[name]) for name in twin), "per-tensor weights too"


def test_a_config_json_rules_layer_by_layer(tmp_path):
    table = {"version": 1, "batch_num": 1, "activation_offset": True, "do_fusion": False}
    how = {"act_algo": "hfmg", "num_of_bins": 1024, "num_bits": 8, "asymmetric": False}
    table["dw"] = {"quant_enable": True, "activation_quant_params": how, "weight_quant_params": {"channel_wise": False}}
    table["fc"] = {"quant_enable": False}
    (tmp_path / "config.json").write_text(json.dumps(table))
    settings, findings = read_config(tmp_path / "config.json").settings()
    assert [finding.message.values["name"] for finding in findings] == ["do_fusion: false"]
    plan = make_plan(every_kind(), feeds(4), replace(settings, small_channels=True))
    assert "fc" not in plan.quantized
    assert (plan.quantized["dw"].activation.offset, plan.quantized["dw"].scale.size) == (0, 1)


@pytest.mark.parametrize(
    "body",
    [
        "batch_num : 0",
        "activation_offset : 3",
        "common_config : { ifmr_quantize : { search_step : 0 } }",
        "common_config : { ifmr_quantize : { search_range_start : 1.3 search_range_end : 0.7 } }",
        "common_config : { ifmr_quantize : { max_percentile : 1.5 } }",
        "common_config : { hfmg_quantize : { num_of_bins : 7 } }",
        "common_config : { arq_quantize : { channel_wise : 2 } }",
    ],
)
def test_a_cfg_with_a_wrong_value_is_refused(tmp_path, body):
    (tmp_path / "q.cfg").write_text(body)
    with pytest.raises(QuantizeError, match=r"q\.cfg"):
        read_config(tmp_path / "q.cfg").settings()


def test_a_misspelt_layer_of_a_cfg_is_told(tmp_path):
    body = 'layer_name : "conv9" calibration_config : { ifmr_quantize : { asymmetric : true } }'
    (tmp_path / "q.cfg").write_text(f"override_layer_configs : {{ {body} }}")
    settings, _ = read_config(tmp_path / "q.cfg").settings()
    with pytest.raises(QuantizeError, match="conv9"):
        make_plan(every_kind(), feeds(1), settings)


def test_a_spec_comes_before_what_a_configuration_says_of_single_layers(tmp_path):
    from pth2om.quantize import QuantizeSettings
    from pth2om.spec import Quantize

    layer = {"quant_enable": True, "activation_quant_params": {"act_algo": "ifmr", "asymmetric": True}}
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"version": 1, "conv1": layer, "conv2": {"quant_enable": False}}))
    start, findings = read_config(path).settings()
    assert not findings
    table = Quantize(activations="minmax", asymmetric=False, skip=("conv3",))
    found = QuantizeSettings.from_spec(table, start).of("conv1", "Conv")
    assert (found.activations, found.asymmetric, found.weights) == ("minmax", False, "arq")
    assert found.skip == ("conv2", "conv3"), "what either skips is skipped"
    assert QuantizeSettings.from_spec(Quantize(), start).of("conv1", "Conv").activations == "ifmr"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ('skip_layer : "conv1"', "skip_layer"),
        ("common_config : { ifmr_quantize : { search_range_begin : 0.7 } }", "search_range_begin"),
        ('{"version": 1, "conv1": {"quant_enabled": false}}', "conv1"),
    ],
)
def test_a_misspelt_name_is_told(tmp_path, text, name):
    path = tmp_path / "q.cfg"
    path.write_text(text)
    _, findings = read_config(path).settings()
    assert [finding.message.values["name"] for finding in findings] == [name]


@pytest.mark.parametrize("value", ["inf", "-inf", "nan", "1e999", "9" * 5000, "0.5", "-129", "true", '"1"'])
def test_numbers_that_no_record_holds_are_refused(tmp_path: Path, value: str) -> None:
    path = tmp_path / "record.txt"
    path.write_text(f'record {{ key: "conv" value {{ scale_d: 0.1 offset_d: {value} }} }}')
    with pytest.raises(QuantizeError):
        read_records(path)
    path.write_text(f'record {{ key: "conv" value {{ scale_d: 0.1 scale_w: 1 shift_bit: {value} }} }}')
    with pytest.raises(QuantizeError):
        read_records(path)


@pytest.mark.parametrize("text", ['{"a": ' + "[" * 50, '{"a": ' + "[" * 5000, '{"a": ' + "[" * 60 + "]" * 60 + "}"])
def test_deeply_nested_configurations_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(QuantizeError):
        read_config(path)
