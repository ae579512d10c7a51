"""Does the model still score on labelled images?"""

import pytest

pytestmark = pytest.mark.question("accuracy")


@pytest.mark.asks("score")
def test_pytorch_reproduces_its_score(torch_session, labelled, accept):
    accept.score(torch_session, labelled)


@pytest.mark.asks("accuracy", "torch", "onnx")
def test_onnx_keeps_the_score(torch_session, onnx_session, labelled, accept):
    accept.accuracy(torch_session, onnx_session, labelled)


@pytest.mark.asks("accuracy", "torch", "om")
def test_om_keeps_the_score(reference_session, om_session, labelled, accept):
    accept.accuracy(reference_session, om_session, labelled)
