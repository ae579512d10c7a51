"""Reads real ``.om`` files without CANN: what they record, and whether that is what was requested."""

from pth2om.omfile.checks import SourceMatch, check, check_against, match_source, precision_mode
from pth2om.omfile.container import Header, Partition
from pth2om.omfile.graph import Operator
from pth2om.omfile.inout import InOut, OmTensor
from pth2om.omfile.model import Kernel, OmModel, read_om, split_flags
from pth2om.omfile.show import model_info_text, model_json, summary

__all__ = [
    "Header",
    "InOut",
    "Kernel",
    "OmModel",
    "OmTensor",
    "Operator",
    "Partition",
    "SourceMatch",
    "check",
    "check_against",
    "match_source",
    "model_info_text",
    "model_json",
    "precision_mode",
    "read_om",
    "split_flags",
    "summary",
]
