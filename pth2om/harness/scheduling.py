"""Which tests each worker of pytest-xdist gets: a model at a time, and the last ones shared."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pytest
from xdist.scheduler import WorkStealingScheduling

_LEAST = 2
"""Tests that a worker of xdist has to hold: it runs one when it knows the next."""


class ModelScheduling(WorkStealingScheduling):  # type: ignore[misc, unused-ignore]  # an extra: mypy may not see it
    """Whole models while there are any that nobody began; then idle workers take from the longest queue.

    Shares of equal length, as xdist's own gives them, part models. And a worker that holds nothing but its last test,
    often the longest of its model, cannot run it before it knows a next one: with half of another's queue it would get
    that one's longest too, and keep it waiting. It takes a single test, the one that is nearest to being run, and none
    where that is the last.

    Args:
        config: of the controller.
        log: xdist's.
        models: their names; tests of one model follow each other.
    """

    def __init__(self, config: pytest.Config, log: Any, models: Collection[str]) -> None:  # noqa: ANN401 - xdist's
        super().__init__(config, log)
        self.steal_requested_from_node: Any = None
        self._models = sorted(models, key=len, reverse=True)

    def check_schedule(self) -> None:
        """Give models to workers that have nothing more to do; steal where none is left."""
        given = True
        while given and self.pending:  # one model each in turn
            given = False
            for node, tests in self.node2pending.items():
                if self.pending and len(tests) < _LEAST and not node.shutting_down:
                    self._send_tests(node, self._of_first_model())
                    given = True
        if self.pending or self.steal_requested_from_node is not None:
            return
        queues = {node: tests for node, tests in self.node2pending.items() if not node.shutting_down}
        idle = [node for node, tests in queues.items() if len(tests) < _LEAST]
        if not idle or not all(queues[node] for node in idle):
            super().check_schedule()
            return
        longest = max(queues, key=lambda node: len(queues[node]))
        if len(queues[longest]) > _LEAST + 1:
            longest.send_steal([queues[longest][_LEAST]])
            self.steal_requested_from_node = longest
            return
        for node in idle:  # it runs its last test, and the other its own
            node.shutdown()

    def _of_first_model(self) -> int:
        """How many of the waiting tests, from the first on, are of the first one's model."""
        model = self._model(self.pending[0])
        return next((count for count, test in enumerate(self.pending) if self._model(test) != model), len(self.pending))

    def _model(self, test: int) -> str:
        assert self.collection is not None
        case = self.collection[test].rpartition("[")[2]
        return next((name for name in self._models if case.startswith((f"{name}-", f"{name}]"))), "")
