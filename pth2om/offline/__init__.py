"""Offline inference as the ModelZoo has it: a labelled dataset through an OM, its outputs in files, then the figures.

* `evaluate` does all of it here: converts, prepares, runs, scores, and prints the table.
* `read_sources` reads what msame, ais_bench and the older ``benchmark`` left on a board: logs into fps, output folders
  into accuracy. Such figures are those tools' own, and say so.
"""

from __future__ import annotations

from pth2om.offline.evaluating import Evaluation, evaluate
from pth2om.offline.reading import read_sources
from pth2om.offline.results import BatchResult, modelzoo_table, write_result

__all__ = ["BatchResult", "Evaluation", "evaluate", "modelzoo_table", "read_sources", "write_result"]
