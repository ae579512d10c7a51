"""Error text -> cause and fix, in both languages: logs of atc, AMCT, ACL, torch.onnx, ONNX Runtime, simplifiers."""

from pth2om.explain.knowledge import STAGES, Entry, Family, entries, families
from pth2om.explain.matching import CodedLine, Explanation, coded_lines, explain, explain_error

__all__ = [
    "STAGES",
    "CodedLine",
    "Entry",
    "Explanation",
    "Family",
    "coded_lines",
    "entries",
    "explain",
    "explain_error",
    "families",
]
