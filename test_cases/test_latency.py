"""How long does one inference take?"""

import pytest

pytestmark = pytest.mark.question("latency")


@pytest.mark.asks("latency", "torch")
def test_pytorch_latency(torch_session, batch, accept):
    accept.latency(torch_session)


@pytest.mark.asks("latency", "onnx")
def test_onnx_latency(onnx_session, accept):
    accept.latency(onnx_session)


@pytest.mark.asks("latency", "om")
def test_om_latency(om_session, accept):
    accept.latency(om_session)
