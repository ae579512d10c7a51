"""The data of one model: its labelled datasets, samples for closeness, and calibration data for INT8."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pth2om.conversion.settings import RunSettings
from pth2om.errors import Absent
from pth2om.files import is_there
from pth2om.spec import Preprocess, Shape, Spec, Variant
from pth2om.store import Store

if TYPE_CHECKING:
    from pth2om.data import Labelled, Samples
    from pth2om.data.normalizing import Preparation
    from pth2om.quantize.calibration_data import CalibrationData, Feeds


class ModelData:
    """The data of one model; datasets are opened once.

    Args:
        spec: the model.
        settings: the run.
        store: remembers digests.
    """

    def __init__(self, spec: Spec, settings: RunSettings, store: Store) -> None:
        self.spec = spec
        self.settings = settings
        self.store = store
        self._datasets: dict[str, Labelled] = {}
        self._preparation: Preparation | None = None

    def preprocess(self) -> Preprocess:
        """The spec's preprocessing.

        Raises:
            Absent: it has none.
        """
        if self.spec.preprocess is None:
            raise Absent("pipeline.no-calibration", where=self.spec.name, model=self.spec.name)
        return self.spec.preprocess

    def preparation(self) -> Preparation:
        """How the spec's ``[volume]`` has volumes prepared.

        Raises:
            Absent: it has none.
            DataError: nnU-Net's files are wrong, or contradict the spec.
        """
        if self.spec.volume is None:
            raise Absent("pipeline.no-calibration", where=self.spec.name, model=self.spec.name)
        if self._preparation is None:
            from pth2om.data.normalizing import preparation

            self._preparation = preparation(self.spec)
        return self._preparation

    def dataset(self, name: str, subset: int | None = None) -> Labelled:
        """The labelled dataset of that name, cut to ``subset`` and to the run's ``--om-subset``.

        Raises:
            Absent: it is not here.
        """
        if name not in self._datasets:
            from pth2om.data import open_dataset

            limits = [limit for limit in (subset, self.settings.subset) if limit is not None]
            self._datasets[name] = open_dataset(
                name,
                calib_root=self.settings.calib,
                data_roots=self.settings.data_roots,
                overrides=self.settings.datasets,
                subset=min(limits) if limits else None,
            )
        return self._datasets[name]

    def size(self, name: str, subset: int | None = None) -> tuple[int, str]:
        """How many samples `dataset` holds, and what they are; data with a recipe that says its count is not made.

        Raises:
            Absent: it is not here.
        """
        from pth2om.data import drawn

        manifest = None if name in self._datasets else drawn(name, self.settings.calib, self.settings.datasets)
        if manifest is None or manifest.count is None:
            labelled = self.dataset(name, subset)
            return len(labelled), labelled.samples_are
        limits = [limit for limit in (subset, self.settings.subset) if limit is not None]
        return min([manifest.count, *limits]), manifest.samples_are

    def first(self) -> tuple[Labelled, str] | None:
        """The first of the spec's datasets that is here, and its metric."""
        for entry in self.spec.datasets:
            try:
                return self.dataset(entry.name, entry.subset), entry.metric
            except Absent:
                continue
        return None

    def samples(self, shape: int | Shape, variant: Variant | None = None) -> Samples:
        """Inputs for closeness: real where a dataset is here, random, zeros.

        Args:
            shape: the batch size, or the gear.
            variant: what they are for.

        With AIPP all are made of pixels, or turned back into them. INT8 is compared on real images only, where there
        are some, else on the bins that calibrate it: its ranges are calibrated for those, and noise or a black picture
        say nothing about them.
        """
        from pth2om.data.samples import GivenSamples, samples

        at = Shape(shape) if isinstance(shape, int) else shape
        spec, batch = self.spec.at(at), at.batch
        found = self.first()
        dataset = found[0] if found else None
        seed = self.settings.seed
        if variant is not None and variant.quantized and dataset is not None:
            # Each batch is filled with images, so that random rows are not needed.
            real = batch * max(1, 8 // batch)
            return samples(spec, dataset, batch=batch, seed=seed, real=real, random=0, zeros=0)
        if variant is not None and variant.quantized and self.spec.quantize.bins:
            bins = self.calibration(at)
            count, pixels = min(bins.count, max(1, 8 // batch)), spec.preprocess and max(spec.preprocess.size)
            feeds, digest = bins.feeds, bins.digest
            if self.calibrated_at(at) != at:
                feeds = functools.partial(fitted, feeds, {entry.name: at.of(entry) for entry in spec.inputs})
                digest = f"{digest}@{at.name}"
            return GivenSamples(feeds, count, batch=batch, name=bins.name, digest=digest, pixels=pixels or None)
        pixels = variant is not None and variant.aipp
        return samples(spec, dataset, batch=batch, seed=seed, from_pixels=pixels)

    def scored(self) -> tuple[Labelled, str | None]:
        """The images and metric an accuracy-aware search judges by: those of the spec's first dataset that is here.

        Raises:
            Absent: none is.
        """
        found = self.first()
        if found is not None:
            return found[0], None if found[1] == "agreement" else found[1]
        name = self.spec.quantize.dataset
        if name is None:
            raise Absent("pipeline.no-calibration", where=self.spec.name, model=self.spec.name)
        return self.dataset(name), None

    def calibrated_at(self, shape: Shape) -> Shape:
        """The shape at which INT8 is calibrated: the given one; with gears the last, or that of the ``bins``."""
        if shape.gears is None:
            return shape
        gears = shape.others()
        first = self.found(self.spec.quantize.bins[0]) if self.spec.quantize.bins else None
        size = next((path.stat().st_size for path in sorted(first.rglob("*.bin"))), 0) if first is not None else 0
        entry = self.spec.inputs[0]
        width = np.dtype(entry.dtype).itemsize
        return next((gear for gear in reversed(gears) if math.prod(gear.of(entry)) * width == size), gears[-1])

    def calibration(self, shape: int | Shape) -> CalibrationData:
        """What calibrates INT8: bins, a dataset's images, or (where the spec allows it) random numbers.

        Args:
            shape: the batch size, or a gear; see `calibrated_at`.

        Raises:
            Absent: it is not here.
        """
        from pth2om.quantize import calibration_data

        at = self.calibrated_at(Shape(shape) if isinstance(shape, int) else shape)
        spec, batch = self.spec.at(at), at.batch
        table, inputs = spec.quantize, spec.inputs
        images = self._calibration_images(batch)
        if table.bins:
            folders = [self.find(name) for name in table.bins]
            return calibration_data.from_bins(folders, inputs, batch, images, self.store.digest)
        name = table.dataset or next((entry.name for entry in self.spec.datasets), None)
        try:
            if name is None:
                raise Absent("pipeline.no-calibration", where=self.spec.name, model=self.spec.name)
            fed = spec.fed_input
            if self.dataset(name).has_arrays:
                return calibration_data.from_arrays(self.dataset(name), inputs, batch, images)
            others = ", ".join(entry.name for entry in inputs if entry.name != fed)
            if others:
                raise Absent("pipeline.images-feed-one", where=self.spec.name, fed=fed, others=others)
            if self.spec.volume is not None:
                volumes, how = self.dataset(name), self.preparation()
                return calibration_data.from_volumes(volumes, how, fed, inputs[0].shape, batch, images)
            preprocess = spec.preprocess or self.preprocess()
            return calibration_data.from_images(self.dataset(name), preprocess, fed, batch, images)
        except Absent:
            if not table.random:
                raise
        return calibration_data.from_random(inputs, batch, self.settings.seed)

    def _calibration_images(self, batch: int) -> int:
        """How many images calibrate: the spec's number, else the ``batch_num`` of its AMCT configuration."""
        table = self.spec.quantize
        if table.config is None or "images" in table.model_fields_set:
            return table.images
        from pth2om.quantize.amct_config import read_config

        asked = read_config(self.find(table.config)).batch_num
        return table.images if asked is None else asked * batch

    def find(self, name: str) -> Path:
        """A file or folder that ``[quantize]`` names, searched like the checkpoint.

        Raises:
            Absent: it is not here.
        """
        path = self.found(name)
        if path is None:
            raise Absent("pipeline.file-absent", where=self.spec.name, file=name)
        return path

    def found(self, name: str) -> Path | None:
        """As `find`; None where it is not here."""
        from pth2om.checkpoint.search import candidates

        places = candidates(self.spec.folder, name, self.spec.name, self.settings.data_roots)
        return next((path.absolute() for path in places if is_there(path)), None)


def fitted(feeds: Callable[[], Iterator[Feeds]], shapes: Mapping[str, tuple[int, ...]]) -> Iterator[Feeds]:
    """Batches at other shapes: along each axis cut, or repeated from the start, so that the values stay real ones.

    Args:
        feeds: makes the batches.
        shapes: input -> its sizes, batch first.
    """
    for batch in feeds():
        made = {}
        for name, array in batch.items():
            for axis, size in enumerate(shapes[name]):
                array = array.take(np.arange(size) % array.shape[axis], axis)
            made[name] = array
        yield made
