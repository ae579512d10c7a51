"""Does the model export to an ONNX file that ATC knows every operator of?"""

import pytest

pytestmark = pytest.mark.question("export")


@pytest.mark.asks("stage", "onnx")
def test_exports_to_onnx(onnx_model, accept):
    accept.stage(onnx_model)
