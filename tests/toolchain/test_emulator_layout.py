"""Rounding in the blocked layout gives the same bits as rounding outside it."""

from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from pth2om.session import TensorSpec, stream
from pth2om.sessions.onnx import ways_of
from pth2om.toolchain.emulator import layout
from pth2om.toolchain.emulator.numerics import compile_numerics
from pth2om.toolchain.emulator.session import EmulatedOmSession


def net(path, channels, batch="n"):
    """Every kind of reader a rounded tensor can have: convolutions, pools, joins, a graph output, an If."""
    generator = np.random.default_rng(channels)
    constants = []

    def conv(x, name, cin, kernel=3, groups=1, act=True):
        shape = (channels, cin // groups, kernel, kernel)
        values = (generator.standard_normal(shape) / np.sqrt(cin * kernel * kernel / groups)).astype(np.float32)
        bias = generator.standard_normal(channels).astype(np.float32)
        constants.extend([numpy_helper.from_array(values, f"{name}w"), numpy_helper.from_array(bias, f"{name}b")])
        made = [
            helper.make_node(
                "Conv", [x, f"{name}w", f"{name}b"], [f"{name}c" if act else name], pads=[kernel // 2] * 4, group=groups
            )
        ]
        return [*made, helper.make_node("Relu", [f"{name}c"], [name])] if act else made

    def branch(kind):
        out = helper.make_tensor_value_info(f"{kind}o", TensorProto.FLOAT, None)
        return helper.make_graph([helper.make_node(kind, ["f"], [f"{kind}o"])], kind, [], [out])

    nodes = [
        *conv("x", "a", 3),
        *conv("a", "b", channels),
        *conv("b", "d", channels, groups=channels),
        helper.make_node("Add", ["d", "a"], ["e"]),
        *conv("e", "f", channels, kernel=1, act=False),
        helper.make_node("MaxPool", ["f"], ["g"], kernel_shape=[3, 3], pads=[1] * 4),
        helper.make_node("Concat", ["f", "g"], ["h"], axis=1),
        *conv("h", "i", 2 * channels),
        helper.make_node("Sigmoid", ["i"], ["s"]),
        helper.make_node("Mul", ["i", "s"], ["j"]),
        helper.make_node("If", ["c"], ["k"], then_branch=branch("Abs"), else_branch=branch("Neg")),
        helper.make_node("GlobalAveragePool", ["j"], ["l"]),
    ]
    sizes = [batch, channels, None, None]
    graph = helper.make_graph(
        nodes,
        "net",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, 20, 24]),
            helper.make_tensor_value_info("c", TensorProto.BOOL, []),
        ],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, sizes) for name in ("l", "b", "k", "j")],
        constants,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)


@pytest.mark.parametrize("channels", [8, 16, 20, 33, 64])
@pytest.mark.parametrize("soc", ["Ascend310B1", "Ascend910B1"])
def test_same_bits(tmp_path, channels, soc):
    net(tmp_path / "m.onnx", channels)
    compiled = compile_numerics(tmp_path / "m.onnx", tmp_path / "c", precision_mode="", soc=soc)
    generator = np.random.default_rng(0)
    feeds = {"x": generator.standard_normal((2, 3, 20, 24)).astype(np.float32), "c": np.array(True)}
    for band in compiled.bands:
        with EmulatedOmSession(compiled, band, threads=1) as session:
            got = session.run(feeds)
        path = compiled.folder / f"{band}.onnx"
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        plain = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]).run(None, feeds)
        assert [array.tobytes() for array in got.values()] == [array.tobytes() for array in plain]


def test_the_same_bits_whatever_threads_and_ways(tmp_path, monkeypatch):
    """An inference gets the threads that others of its stream leave it."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    net(tmp_path / "m.onnx", 32)
    compiled = compile_numerics(tmp_path / "m.onnx", tmp_path / "c", precision_mode="", soc="Ascend310B1")
    generator = np.random.default_rng(0)
    given = [{"x": generator.standard_normal((2, 3, 20, 24)).astype(np.float32), "c": np.array(True)} for _ in range(7)]
    found = {}
    for threads in (1, 2, 3, 8):
        with EmulatedOmSession(compiled, "fused", threads=threads) as session:
            assert session.ways == min(threads, 4)
            streamed = [tuple(array.tobytes() for array in each.values()) for each in stream(session, given)]
            alone = [tuple(array.tobytes() for array in session.run(each).values()) for each in given]
            found[threads] = {tuple(streamed), tuple(alone)}
    assert len(set.union(*found.values())) == 1


@pytest.mark.parametrize(
    ("shape", "threads", "count"),
    [
        ((1, 3, 640, 640), 1, 1),
        ((1, 3, 640, 640), 2, 2),
        ((4, 3, 224, 224), 16, 4),
        ((4, 3, 640, 640), 16, 1),  # busy enough by itself
        ((1, 1, 96, 160, 160), 16, 1),
        ((None, 3, None, None), 3, 3),
        ((), 2, 2),
    ],
)
def test_how_many_inferences_may_be_under_way(shape, threads, count):
    assert ways_of([TensorSpec("x", shape, np.dtype(np.float32))], threads) == count


def test_reorderings_go(tmp_path):
    net(tmp_path / "m.onnx", 32)
    compiled = compile_numerics(tmp_path / "m.onnx", tmp_path / "c", precision_mode="", soc="Ascend910B1")
    path = compiled.folder / "fused.onnx"
    before = Counter(node.op_type for node in layout._optimized(path, 1).graph.node)
    if not before["ReorderOutput"]:
        pytest.skip("this CPU has no blocked layout in ONNX Runtime")
    blocked = layout.blocked_model(path, 1)
    assert blocked is not None
    after = Counter(node.op_type for node in onnx.load_from_string(blocked).graph.node)
    assert after["Cast"] == before["Cast"]
    assert after["Conv"] == before["Conv"]
    assert after["ReorderInput"] < before["ReorderInput"]


def test_nothing_to_gain(tmp_path):
    graph = helper.make_graph(
        [helper.make_node("Exp", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, tmp_path / "m.onnx")
    assert layout.blocked_model(tmp_path / "m.onnx", 1) is None
    (tmp_path / "broken.onnx").write_bytes(b"\x08\x08")
    assert layout.blocked_model(tmp_path / "broken.onnx", 1) is None


def test_where_nothing_is_rounded_the_layout_is_left_alone(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(layout, "blocked_model", lambda *_: asked.append(1))
    net(tmp_path / "m.onnx", 16)
    feeds = {"x": np.ones((1, 3, 20, 24), np.float32), "c": np.array(True)}
    for mode, count in (("must_keep_origin_dtype", 0), ("force_fp16", 1)):
        compiled = compile_numerics(tmp_path / "m.onnx", tmp_path / mode, precision_mode=mode, soc="Ascend310B1")
        session = EmulatedOmSession(compiled, threads=1)
        session.run({spec.name: feeds[spec.name] for spec in session.inputs})
        assert len(asked) == count
