"""INT8: are its files right, and what does it cost?"""

import pytest

pytestmark = pytest.mark.question("quantization")


@pytest.mark.asks("quantized")
def test_int8_files_are_right(quantized_model, samples, accept):
    accept.quantized(quantized_model, samples)


@pytest.mark.asks("closeness", "onnx", "fake-quant")
def test_fake_quant_matches_onnx(quantized_model, onnx_session, fake_quant_session, samples, accept):
    accept.closeness(onnx_session, fake_quant_session, samples)


@pytest.mark.asks("closeness", "fake-quant", "om")
def test_om_matches_fake_quant(quantized_model, fake_quant_session, om_session, samples, accept):
    accept.closeness(fake_quant_session, om_session, samples)


@pytest.mark.asks("accuracy", "torch", "fake-quant")
def test_fake_quant_keeps_the_score(quantized_model, reference_session, fake_quant_session, labelled, accept):
    accept.accuracy(reference_session, fake_quant_session, labelled)


@pytest.mark.asks("fp32_checkpoint")
def test_int8_weights_load_as_fp32_checkpoint(quantized_model, samples, accept):
    accept.fp32_checkpoint(quantized_model, samples)


@pytest.mark.asks("accuracy", "torch", "int8-weights")
def test_int8_weights_alone_score(quantized_model, torch_session, int8_weights_session, labelled, accept):
    accept.accuracy(torch_session, int8_weights_session, labelled)
