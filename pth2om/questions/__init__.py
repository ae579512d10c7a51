"""The questions of an acceptance run about a model, one file per question, answered as evidence.

Each question is a function of a `pth2om.questions.subject.Subject` and of what is measured. It measures through the
store, judges against the spec, and returns `pth2om.evidence.GateRecord`s. Nothing heavy is imported before something
has to be measured.
"""

from __future__ import annotations

from typing import get_args

from pth2om.evidence import Question

QUESTIONS: tuple[Question, ...] = get_args(Question)
"""All questions, in the order in which a run asks them and a report shows them."""
