"""Will ATC take the ONNX file on this SoC?"""

import pytest

pytestmark = pytest.mark.question("preflight")


@pytest.mark.asks("preflight")
def test_atc_will_take_it(onnx_model, variant, accept):
    accept.preflight(onnx_model)


@pytest.mark.asks("stage", "om")
def test_compiles(om_model, accept):
    accept.stage(om_model)
