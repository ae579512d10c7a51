"""How long does one inference take?"""

import pytest

pytestmark = pytest.mark.question("latency")


def test_onnx_latency(onnx_session, onnx_model, accept):
    accept.latency(onnx_session, onnx_model)


def test_om_latency(om_session, om_model, accept):
    accept.latency(om_session, om_model)
