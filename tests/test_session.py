"""A reference with a memory, and inferences beside the caller."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from pth2om.session import Provenance, Remembering, Room, Session, TensorSpec, stream


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


class Slow(Counting):
    """Takes as long as it is told; tells who runs when."""

    def __init__(self) -> None:
        super().__init__()
        self.threads: list[int] = []
        self.under_way = 0
        self.most = 0

    def run(self, feeds):
        self.threads.append(threading.get_ident())
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        time.sleep(0.002)
        self.under_way -= 1
        if feeds["x"][0, 0] == 13:
            raise ValueError("thirteen")
        return super().run(feeds)


def test_a_stream_computes_one_at_a_time_beside_its_caller() -> None:
    session, made, alive = Slow(), [], threading.active_count()

    def each():
        for value in range(8):
            made.append((value, threading.get_ident()))
            yield feeds(value)

    seen = []
    for number, outputs in enumerate(stream(session, each())):
        seen.append(float(outputs["y"][0, 0]))
        assert len(made) <= number + 2  # what is taken ahead is bounded: so is the memory
    assert seen == [value + 1.0 for value in range(8)]
    assert session.most == 1
    assert {thread for _, thread in made} == {threading.get_ident()}
    assert threading.get_ident() not in session.threads
    assert threading.active_count() == alive


def test_a_stream_gives_what_was_computed_before_an_error() -> None:
    computed = stream(Slow(), (feeds(value) for value in (1, 2, 13, 4)))
    assert [float(next(computed)["y"][0, 0]) for _ in range(2)] == [2, 3]
    with pytest.raises(ValueError, match="thirteen"):
        next(computed)

    def broken():
        yield feeds(1)
        raise OSError("no image")

    with pytest.raises(OSError, match="no image"):
        list(stream(Slow(), broken()))
    assert list(stream(Slow(), [])) == []


def test_a_stream_that_is_left_computes_no_more() -> None:
    session = Slow()
    for _ in stream(session, (feeds(value) for value in range(100))):
        break
    assert session.runs <= 3


class Wide(Slow):
    """Takes three at a time; the first of them always takes longest."""

    ways = 3

    def run(self, feeds):
        time.sleep(0.01 if feeds["x"][0, 0] % 3 == 0 else 0)
        return super().run(feeds)


class Fed(Counting):
    """Feeds another session, whose ways hold."""

    def __init__(self, inner) -> None:
        super().__init__()
        self.inner = inner

    def run(self, feeds):
        return self.inner.run(feeds)


@pytest.mark.parametrize("wrap", [lambda wide: wide, Fed, Remembering])
def test_a_session_of_several_ways_computes_so_many_at_a_time_in_order(wrap) -> None:
    inner, taken = Wide(), []

    def each():
        for value in range(12):
            taken.append(value)
            yield feeds(value)

    for number, outputs in enumerate(stream(wrap(inner), each())):
        assert outputs["y"][0, 0] == number + 1.0
        assert len(taken) <= number + 4
    assert number == 11
    assert 2 <= inner.most <= 3


def test_a_memory_of_several_ways_keeps_its_account() -> None:
    """The same feeds under way twice are remembered once, and give their room back once."""
    room, inner = Room(1000), Wide()
    memory = Remembering(inner, room)
    found = list(stream(memory, (feeds(value) for value in [1, 1, 1, 2, 1, 2])))
    assert [float(outputs["y"][0, 0]) for outputs in found] == [2, 2, 2, 3, 2, 3]
    assert room.bytes == 1000 - 2 * found[0]["y"].nbytes
    runs = inner.runs
    assert [float(each["y"][0, 0]) for each in stream(memory, [feeds(1), feeds(2)])] == [2, 3]
    assert inner.runs == runs
    memory.close()
    assert room.bytes == 1000


class Linked(Counting):
    """Has a stream of its own, which nobody else may run beside."""

    def stream(self, each):
        return map(self.run, each)


def test_a_memory_asks_a_stream_of_its_own_in_the_callers_thread() -> None:
    inner = Linked()
    inner.run = lambda given: {"y": given["x"] + threading.get_ident() % 97}
    (found,) = stream(Remembering(inner), [feeds(0)])
    assert found["y"][0, 0] == threading.get_ident() % 97
