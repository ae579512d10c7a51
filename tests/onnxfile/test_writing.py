"""The one writer of ONNX files: the same model comes back, with and without a file of weights."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pth2om.onnxfile import writing
from pth2om.onnxfile.reading import read, read_whole

SMALL, LARGE = np.arange(1, dtype=np.float32), np.arange(4096, dtype=np.float32)


def model():
    graph = helper.make_graph(
        [helper.make_node("Add", ["large", "small"], ["y"])],
        "g",
        [],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4096])],
        [numpy_helper.from_array(LARGE, "large"), numpy_helper.from_array(SMALL, "small")],
    )
    return helper.make_model(graph)


@pytest.mark.parametrize("limit", [10**9, 100])
def test_what_is_written_is_read_again(limit, tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "INLINE_LIMIT", limit)
    source = model()
    before = source.SerializeToString()
    writing.write_model(source, tmp_path / "m.onnx")
    assert source.SerializeToString() == before
    beside = {path.name for path in tmp_path.iterdir()}
    assert beside == ({"m.onnx"} if limit > 100 else {"m.onnx", "m.onnx.data"})
    large, small = read(tmp_path / "m.onnx").graph.initializer
    assert [one.data_location for one in (large, small)] == [int(limit == 100), 0]
    onnx.checker.check_model(str(tmp_path / "m.onnx"))
    for tensor, values in zip(read_whole(tmp_path / "m.onnx").graph.initializer, (LARGE, SMALL), strict=True):
        assert np.array_equal(numpy_helper.to_array(tensor), values)


def test_a_failure_leaves_the_old_file(tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "INLINE_LIMIT", 100)
    writing.write_model(model(), tmp_path / "m.onnx")
    old = (tmp_path / "m.onnx").read_bytes()

    def held(tensor):
        if tensor.name == "small":
            raise OSError("disk full")

    monkeypatch.setattr(writing, "is_external", lambda *_: True)
    with pytest.raises(OSError, match="disk full"):
        writing.write_model(model(), tmp_path / "m.onnx", held=held)
    assert (tmp_path / "m.onnx").read_bytes() == old
    assert {path.name for path in tmp_path.iterdir()} == {"m.onnx", "m.onnx.data"}
