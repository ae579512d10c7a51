"""A model that is no file, for questions about sessions that tests bring themselves."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from pth2om.session import Session
from pth2om.spec import Export, Gates, Input
from pth2om.store import Store


def model(given: Input, reference: Session, store: Store, **more: Any) -> SimpleNamespace:
    """What questions ask of a pipeline: one input, gates of their defaults, nothing that was built.

    Args:
        given: the model's input.
        reference: what PyTorch answers.
        store: for measurements.
        more: further parts of the pipeline.
    """
    spec = SimpleNamespace(
        name="net",
        task="tensor",
        inputs=(given,),
        fed_input=given.name,
        export=Export(),
        slices=(),
        preprocess=None,
        volume=None,
        digest="",
        gates=Gates(),
        datasets=(),
    )
    return SimpleNamespace(
        spec=spec,
        settings=SimpleNamespace(soc=None),
        has_torch=True,
        source=SimpleNamespace(digest=""),
        records={},
        store=store,
        torch_session=lambda: reference,
        **more,
    )
