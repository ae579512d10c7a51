"""Do PyTorch, TorchScript, ONNX and OM compute the same? Asked of models whose spec has [torchscript]."""

import pytest


@pytest.mark.question("export")
@pytest.mark.asks("stage", "torchscript")
def test_makes_a_torchscript_program(torchscript_model, accept):
    accept.stage(torchscript_model)


@pytest.mark.question("closeness")
@pytest.mark.asks("closeness", "torch", "torchscript")
def test_torchscript_matches_pytorch(torch_session, torchscript_session, samples, accept):
    accept.closeness(torch_session, torchscript_session, samples)


@pytest.mark.question("closeness")
@pytest.mark.asks("closeness", "torchscript", "onnx")
def test_onnx_matches_torchscript(torchscript_session, onnx_session, samples, accept):
    accept.closeness(torchscript_session, onnx_session, samples)


@pytest.mark.question("closeness")
@pytest.mark.asks("closeness", "torchscript", "om")
def test_om_matches_torchscript(torchscript_session, om_session, samples, accept):
    accept.closeness(torchscript_session, om_session, samples)


@pytest.mark.question("accuracy")
@pytest.mark.asks("accuracy", "torch", "torchscript")
def test_torchscript_keeps_the_score(torch_session, torchscript_session, labelled, accept):
    accept.accuracy(torch_session, torchscript_session, labelled)
