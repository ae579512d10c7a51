"""What msame, ais_bench and the older ``benchmark`` left behind: logs into fps, output folders into accuracy.

The ModelZoo calls this offline inference: the OM runs on a board under one of these tools, and scripts read its log and
its outputs afterwards. Nothing here runs a model, so every figure is one that those tools wrote, and says so.
"""

from __future__ import annotations

from pth2om.offline.reading import read_sources
from pth2om.offline.results import BatchResult, modelzoo_table, write_result

__all__ = ["BatchResult", "modelzoo_table", "read_sources", "write_result"]
