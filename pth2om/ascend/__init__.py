"""The vendor's facts: SoCs and their families, parser keys, kernels, atc's command line, installed packages."""

from __future__ import annotations

from pathlib import Path

TABLES = Path(__file__).parent / "tables"
"""The folder of the packaged tables, which `pth2om.ascend.make_tables` writes."""
