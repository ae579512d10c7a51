"""Do PyTorch, ONNX and OM compute the same?"""

import pytest

pytestmark = pytest.mark.question("closeness")


@pytest.mark.asks("closeness", "torch", "onnx")
def test_onnx_matches_pytorch(torch_session, onnx_session, samples, accept):
    accept.closeness(torch_session, onnx_session, samples)


@pytest.mark.asks("closeness", "onnx", "om")
def test_om_matches_onnx(onnx_session, om_session, samples, accept):
    accept.closeness(onnx_session, om_session, samples)


@pytest.mark.asks("closeness", "torch", "om")
def test_om_matches_pytorch(torch_session, om_session, samples, accept):
    accept.closeness(torch_session, om_session, samples)


@pytest.mark.asks("twin")
def test_gear_matches_static_twin(twin_om_session, om_session, samples, accept):
    accept.twin(twin_om_session, om_session, samples)


@pytest.mark.asks("closeness", "om", "om")
def test_aipp_matches_plain(plain_om_session, om_session, samples, accept):
    accept.closeness(plain_om_session, om_session, samples)
