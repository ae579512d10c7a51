"""The one reader of ONNX files and its rule about weights outside them."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pth2om.errors import GraphError, QuantizeError
from pth2om.graph.document import Document
from pth2om.onnxfile.reading import external_place, read, read_whole
from pth2om.preflight import check
from pth2om.quantize.network import read_model

WEIGHT = np.arange(8, dtype=np.float32).reshape(2, 4)


def model(path, location="w.bin"):
    """A MatMul whose weight lies in a file."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], name="product")],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])],
    )
    tensor = graph.initializer.add(name="w", data_type=TensorProto.FLOAT, dims=WEIGHT.shape)
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def rules(path):
    return {one.rule for one in check(path) if one.severity == "error"}


def test_a_link_that_leaves_the_folder_is_outside_for_everyone(tmp_path):
    (tmp_path / "elsewhere.bin").write_bytes(WEIGHT.tobytes())
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "w.bin").symlink_to(tmp_path / "elsewhere.bin")
    path = model(folder / "m.onnx")
    assert external_place(folder, "w.bin") == "outside"
    assert rules(path) == {"preflight.external-outside"}
    for reader in (read_whole, Document.open):
        with pytest.raises(GraphError) as caught:
            reader(path)
        assert caught.value.message.key == "onnxfile.external-outside"
    with pytest.raises(QuantizeError):
        read_model(path)


def test_a_link_inside_the_folder_is_followed(tmp_path):
    (tmp_path / "data.bin").write_bytes(WEIGHT.tobytes())
    (tmp_path / "w.bin").symlink_to("data.bin")
    path = model(tmp_path / "m.onnx")
    assert rules(path) == set()
    (tensor,) = read_whole(path).graph.initializer
    assert np.array_equal(numpy_helper.to_array(tensor), WEIGHT)
    assert read(path).graph.initializer[0].data_location == TensorProto.EXTERNAL


@pytest.mark.parametrize(
    ("location", "place"),
    [("", "bare"), ("absent", "missing"), ("../m", "outside"), ("C:\\w", "outside"), ("a" * 5000, "missing"),
     ("a\0b", "missing"), ("loop", "missing")],
)  # fmt: skip
def test_places_of_external_data(location, place, tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    assert external_place(tmp_path, location) == place


def test_data_that_does_not_fill_its_tensor_is_refused(tmp_path):
    path = model(tmp_path / "m.onnx")
    for data, key in ((b"", "short"), (WEIGHT.tobytes()[:-1], "short"), (None, "missing")):
        (tmp_path / "w.bin").unlink(missing_ok=True)
        if data is not None:
            (tmp_path / "w.bin").write_bytes(data)
        with pytest.raises(GraphError) as caught:
            read_whole(path)
        assert caught.value.message.key == f"onnxfile.external-{key}"
