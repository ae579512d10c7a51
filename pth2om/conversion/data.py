"""The data of one model: its labelled datasets, samples for closeness, and calibration data for INT8."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pth2om.conversion.settings import RunSettings
from pth2om.errors import Absent
from pth2om.files import is_there
from pth2om.spec import Preprocess, Shape, Spec, Variant
from pth2om.store import Store

if TYPE_CHECKING:
    from pth2om.data import Labelled, Samples
    from pth2om.quantize.calibration_data import CalibrationData


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

    def preprocess(self) -> Preprocess:
        """The spec's preprocessing.

        Raises:
            Absent: it has none.
        """
        if self.spec.preprocess is None:
            raise Absent("pipeline.no-calibration", where=self.spec.name, model=self.spec.name)
        return self.spec.preprocess

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

        With AIPP all are made of pixels. INT8 is compared on real images only, where there are some, else on the bins
        that calibrate it: its ranges are calibrated for those, and noise or a black picture say nothing about them.
        """
        from pth2om.data import GivenSamples, samples

        spec, batch = (self.spec, shape) if isinstance(shape, int) else (self.spec.at(shape), shape.batch)
        found = self.first()
        dataset = found[0] if found else None
        seed = self.settings.seed
        if variant is not None and variant.quantized and dataset is not None:
            # Each batch is filled with images, so that random rows are not needed.
            real = batch * max(1, 8 // batch)
            return samples(self.spec, dataset, batch=batch, seed=seed, real=real, random=0, zeros=0)
        if variant is not None and variant.quantized and self.spec.quantize.bins and not variant.aipp:
            bins = self.calibration(batch)
            count, pixels = min(bins.count, max(1, 8 // batch)), self.spec.preprocess and max(self.spec.preprocess.size)
            return GivenSamples(
                bins.feeds, count, batch=batch, name=bins.name, digest=bins.digest, pixels=pixels or None
            )
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

    def calibration(self, batch: int) -> CalibrationData:
        """What calibrates INT8: bins, a dataset's images, or (where the spec allows it) random numbers.

        Raises:
            Absent: it is not here.
        """
        from pth2om.quantize import calibration_data

        table, inputs = self.spec.quantize, self.spec.inputs
        images = self._calibration_images(batch)
        if table.bins:
            folders = [self.find(name) for name in table.bins]
            return calibration_data.from_bins(folders, inputs, batch, images, self.store.digest)
        name = table.dataset or next((entry.name for entry in self.spec.datasets), None)
        try:
            if name is None:
                raise Absent("pipeline.no-calibration", where=self.spec.name, model=self.spec.name)
            preprocess = self.preprocess()
            fed = self.spec.fed_input
            others = ", ".join(entry.name for entry in inputs if entry.name != fed)
            if others:
                raise Absent("pipeline.images-feed-one", where=self.spec.name, fed=fed, others=others)
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
