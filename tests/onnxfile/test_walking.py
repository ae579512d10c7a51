"""Order of nodes and what subgraphs capture, against a slow definition of both."""

from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from pth2om.onnxfile.walking import captured, is_sorted, order, sort_nodes


def graph_of(edges, count):
    nodes = [
        helper.make_node("Sum", [f"t{a}" for a, b in edges if b == place] or ["x"], [f"t{place}"], name=f"n{place}")
        for place in range(count)
    ]
    return helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])], [])


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 8).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.tuples(*[st.integers(0, n - 1)] * 2)))))
def test_order_puts_makers_first_and_finds_every_circle(drawn):
    count, edges = drawn
    graph = graph_of(edges, count)
    places = order(graph.node)
    done, left = set(), set(range(count))
    while ready := {place for place in left if all(a in done for a, b in edges if b == place)}:
        done |= ready
        left -= ready
    assert (places is None) == bool(left)
    if places is not None:
        assert all(places.index(a) < places.index(b) for a, b in edges)
        assert sort_nodes(graph)
        assert is_sorted(graph)
        if all(a < b for a, b in edges):
            assert places == list(range(count))


def test_captured_looks_through_nested_subgraphs():
    def graph(name, nodes, output):
        return helper.make_graph(nodes, name, [], [helper.make_empty_tensor_value_info(output)])

    inner = graph("inner", [helper.make_node("Add", ["a", "own"], ["o"])], "o")
    branch = helper.make_node("If", ["c"], ["m"], then_branch=inner, else_branch=inner)
    middle = graph("middle", [helper.make_node("Neg", ["b"], ["own"]), branch], "d")
    node = helper.make_node("If", ["cond"], ["y"], then_branch=middle, else_branch=middle)
    assert captured(node) == {"a", "b", "c", "d"}
