"""Labelled images: manifests, reading, preprocessing into batches, and samples for closeness.

::

    dataset.toml --load_manifest--> Manifest --open_dataset--> Labelled --Preprocessor--> float32 CHW + Geometry
                                                                      └-- samples() --> rows for closeness

Pillow is imported when the first image is decoded, not before: a run whose measurements are all in the store decodes
nothing. NumPy comes with the first name that needs it: who only collects tests reads manifests and no arrays.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pth2om import on_demand

if TYPE_CHECKING:
    from pth2om.data.labelled import DatasetAbsent, Labelled, open_dataset
    from pth2om.data.manifest import Manifest, load_manifest
    from pth2om.data.preprocess import Batch, Geometry, Preprocessor, batches
    from pth2om.data.recipes import drawn, made_ahead
    from pth2om.data.samples import GivenSamples, Sample, Samples

__all__ = [
    "Batch",
    "DatasetAbsent",
    "Geometry",
    "GivenSamples",
    "Labelled",
    "Manifest",
    "Preprocessor",
    "Sample",
    "Samples",
    "batches",
    "drawn",
    "load_manifest",
    "made_ahead",
    "open_dataset",
]

__getattr__ = on_demand.names(
    __name__,
    {
        "labelled": ("DatasetAbsent", "Labelled", "open_dataset"),
        "manifest": ("Manifest", "load_manifest"),
        "preprocess": ("Batch", "Geometry", "Preprocessor", "batches"),
        "recipes": ("drawn", "made_ahead"),
        "samples": ("GivenSamples", "Sample", "Samples"),
    },
)
