"""Which tests each worker of pytest-xdist gets: a model at a time, and halves of the last ones."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pytest
from xdist.scheduler import WorkStealingScheduling

_LEAST = 2
"""Tests that a worker of xdist has to hold: it runs one when it knows the next."""


class ModelScheduling(WorkStealingScheduling):  # type: ignore[misc, unused-ignore]  # an extra: mypy may not see it
    """Whole models while there are any that nobody began; then an idle worker takes half of the longest queue.

    Shares of equal length, as xdist's own gives them, part models, and make a worker that ran its last tests take a
    long test of another's that would have come to it in time.

    Args:
        config: of the controller.
        log: xdist's.
        models: their names; tests of one model follow each other.
    """

    def __init__(self, config: pytest.Config, log: Any, models: Collection[str]) -> None:  # noqa: ANN401 - xdist's
        super().__init__(config, log)
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
        if not self.pending:
            super().check_schedule()

    def _of_first_model(self) -> int:
        """How many of the waiting tests, from the first on, are of the first one's model."""
        model = self._model(self.pending[0])
        return next((count for count, test in enumerate(self.pending) if self._model(test) != model), len(self.pending))

    def _model(self, test: int) -> str:
        assert self.collection is not None
        case = self.collection[test].rpartition("[")[2]
        return next((name for name in self._models if case.startswith((f"{name}-", f"{name}]"))), "")
