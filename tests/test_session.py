"""A reference with a memory."""

from __future__ import annotations

import numpy as np

from pth2om.session import Provenance, Remembering, Room, Session, TensorSpec


class Counting:
    """A session that adds one and counts its runs."""

    inputs = (TensorSpec("x", (None, 2), np.dtype(np.float32)),)
    outputs = (TensorSpec("y", (None, 2), np.dtype(np.float32)),)
    digest = "d"
    provenance = Provenance("counting", "1", "host")

    def __init__(self) -> None:
        self.runs = 0

    def run(self, feeds):
        self.runs += 1
        return {"y": feeds["x"] + 1}

    def close(self) -> None:
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def feeds(value: float, shape=(1, 2), dtype=np.float32) -> dict[str, np.ndarray]:
    return {"x": np.full(shape, value, dtype)}


def test_the_same_feeds_are_computed_once() -> None:
    inner = Counting()
    session = Remembering(inner)
    assert isinstance(session, Session)
    first = session.run(feeds(1))["y"]
    first[:] = -1  # the caller may do as it likes
    np.testing.assert_array_equal(session.run(feeds(1))["y"], 2)
    assert inner.runs == 1


def test_other_values_shapes_and_types_are_other_feeds() -> None:
    inner = Counting()
    session = Remembering(inner)
    for each in (feeds(1), feeds(2), feeds(1, (2, 1)), feeds(1, dtype=np.float64), feeds(0, (0, 2))):
        session.run(each)
    assert inner.runs == 5


def test_the_memory_is_bounded() -> None:
    inner = Counting()
    session = Remembering(inner, Room(8))
    for value in (1, 2, 1, 2):
        session.run(feeds(value))
    assert inner.runs == 3


def test_several_memories_share_one_room_and_give_it_back() -> None:
    room = Room(16)
    first, second = Counting(), Counting()
    memories = [Remembering(inner, room) for inner in (first, second)]
    for value in (1, 2, 1, 2):
        memories[0].run(feeds(value))
    for _ in range(2):
        memories[1].run(feeds(1))
    assert (first.runs, second.runs, room.bytes) == (2, 2, 0)
    memories[0].close()
    for _ in range(2):
        memories[1].run(feeds(1))
    assert (second.runs, room.bytes) == (3, 8)
