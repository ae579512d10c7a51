"""Labelled volumes in nnU-Net's folders.

``imagesTs/CASE_0000.nii.gz``, one file a channel, and ``labelsTs/CASE.nii.gz``. NIfTI files are read by nibabel (extra
``nifti``), in nnU-Net's order of axes: the file's last axis comes first. ``.npy`` files are taken as they are, and have
no spacing.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import math
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pth2om.data.manifest import Manifest
from pth2om.data.plans import read_dataset_json
from pth2om.data.sources import Source, files_digest
from pth2om.errors import Absent, DataError, first_line
from pth2om.files import is_file
from pth2om.store import Store

Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int16]

ENDINGS = (".nii.gz", ".nii", ".npy")
MOST_VOXELS = 1 << 31
"""Of one file; a header that promises more is not believed."""

IGNORED = -1
"""Label of voxels that are not scored."""

_CHANNEL = re.compile(r"^(?P<case>.+)_(?P<channel>\d{4})$")
_MOST_CLASSES = 4096


class NiftiAbsent(DataError, Absent):  # noqa: N818 - absence is no mistake
    """nibabel is not installed. What needs it is *not measured*."""


@dataclass(frozen=True)
class Volume:
    """The channels of one case.

    Attributes:
        values: float32 (channels, *size).
        spacing: millimetres along each axis; empty where the file does not say.
    """

    values: Floats
    spacing: tuple[float, ...]


@dataclass
class VolumeSource(Source):
    """The content of a folder of volumes; see `Source`.

    Attributes:
        channels: the files of each case, one a channel.
        truths: the label file of each case; None where there are none.
        ignored: the label that is not scored, or None.
    """

    channels: Sequence[Sequence[Path]] = ()
    truths: Sequence[Path] | None = None
    ignored: int | None = None
    _truth: dict[int, Labels] = field(default_factory=dict)

    @property
    def has_labels(self) -> bool:
        """Whether there is a label file per case."""
        return self.truths is not None

    @property
    def has_volumes(self) -> bool:
        """Always."""
        return True

    def image(self, index: int) -> npt.NDArray[np.uint8]:
        """A volume is no picture.

        Raises:
            DataError: always.
        """
        raise DataError("data.volume-no-image", where=self.files[index])

    def volume(self, index: int, *, reorient: bool = False) -> Volume:
        """See `pth2om.data.Labelled.volume`."""
        found: list[npt.NDArray[Any]] = []
        spacing: tuple[float, ...] = ()
        for path in self.channels[index]:
            values, spacing = read_file(path, reorient=reorient)
            if not np.isfinite(values).all():
                raise DataError("data.volume-not-finite", where=str(path))
            if found and found[0].shape != values.shape:
                sizes = {"first": _shown(found[0].shape), "size": _shown(values.shape)}
                raise DataError("data.volume-channel-size", where=str(path), **sizes)
            found.append(values)
        return Volume(np.stack(found).astype(np.float32), spacing)

    def truth(self, index: int, *, reorient: bool = False) -> Labels:
        """See `pth2om.data.Labelled.truth`."""
        if self.truths is None:
            raise DataError("data.no-masks", where=self.files[index])
        path = self.truths[index]
        values, _ = read_file(path, reorient=reorient)
        rounded = np.rint(values)
        with np.errstate(invalid="ignore"):
            whole = np.abs(values - rounded) <= 1e-3  # NIfTI may keep labels as scaled numbers
        if not whole.all():
            raise DataError("data.volume-label-fraction", where=str(path), value=str(values[~whole].ravel()[0]))
        most = self.classes or _MOST_CLASSES
        bad = (rounded < 0) | (rounded >= most)
        if self.ignored is not None:
            bad &= rounded != self.ignored
        if bad.any():
            label = int(rounded[bad].ravel()[0])
            count = int(np.count_nonzero(bad))
            raise DataError("data.volume-label", where=str(path), label=label, last=most - 1, count=count)
        labels: Labels = rounded.astype(np.int16)
        if self.ignored is not None:
            labels[rounded == self.ignored] = IGNORED
        return labels

    def content(self, count: int, store: Store) -> str:
        """Digest of the first ``count`` cases and their labels."""
        digest = hashlib.sha256(json.dumps([list(self.files[:count]), self.ignored]).encode())
        paths = [path for files in self.channels[:count] for path in files]
        paths += self.truths[:count] if self.truths is not None else []
        digest.update(files_digest(paths, store).encode())
        return digest.hexdigest()


def read(manifest: Manifest, folder: Path) -> VolumeSource:
    """List the cases; no volume is read.

    Raises:
        DataError: channels or labels are missing, or the folder holds none.
    """
    images = _files(folder, manifest.images or "imagesTs")
    cases: dict[str, dict[int, Path]] = {}
    for stem, path in images:
        match = _CHANNEL.match(stem)
        case, channel = (match["case"], int(match["channel"])) if match else (stem, 0)
        if channel in cases.setdefault(case, {}):
            raise DataError("data.volume-twice", where=str(path), case=case, channel=channel)
        cases[case][channel] = path
    if not cases:
        raise DataError("data.volume-empty", where=str(folder / (manifest.images or "imagesTs")))
    count = max(len(channels) for channels in cases.values())
    for case, channels in cases.items():
        missing = [number for number in range(count) if number not in channels]
        if missing or len(channels) != count:
            where = str(folder / (manifest.images or "imagesTs"))
            raise DataError("data.volume-channel", where=where, case=case, channel=(missing or [count])[0], count=count)
    names = sorted(cases)
    truths = _truths(manifest, folder, names) if manifest.label_file else None
    classes = manifest.names if isinstance(manifest.names, tuple) else ()
    ignored: int | None = None
    labels: int | None = None
    written = folder / "dataset.json"
    if is_file(written):
        read_json = read_dataset_json(written)
        ignored, labels = read_json.ignored, read_json.labels
        classes = classes or (read_json.names if read_json.regions is None else ())
    found = [[cases[name][number] for number in range(count)] for name in names]
    source = VolumeSource(names, names=classes, channels=found, truths=truths, ignored=ignored)
    source.classes = manifest.classes or len(classes) or labels
    return source


def _truths(manifest: Manifest, folder: Path, names: Sequence[str]) -> list[Path]:
    files = _files(folder, manifest.label_file)
    if len(names) == len(files) == 1:
        return [files[0][1]]
    labels = dict(files)
    missing = [name for name in names if name not in labels]
    if missing:
        where = str(folder / manifest.label_file)
        raise DataError("data.volume-unlabelled", where=where, case=missing[0], count=len(missing), of=len(names))
    return [labels[name] for name in names]


def _files(folder: Path, name: str) -> list[tuple[str, Path]]:
    """Stem and path of the volumes in a folder, or of the one file, in order."""
    place = folder / name
    paths = [place] if place.is_file() else sorted(place.iterdir()) if place.is_dir() else []
    found = []
    for path in paths:
        ending = ending_of(path)
        if ending and not path.name.startswith(".") and path.is_file():
            found.append((path.name.removesuffix(ending), path))
    return found


def ending_of(path: Path) -> str:
    """Which of `ENDINGS` a file has; ``""`` for none."""
    return next((ending for ending in ENDINGS if path.name.endswith(ending)), "")


def read_file(path: Path, *, reorient: bool = False) -> tuple[npt.NDArray[Any], tuple[float, ...]]:
    """One file: its numbers and the spacing of its axes in millimetres, empty where the file does not say.

    Args:
        path: NIfTI or ``.npy``.
        reorient: turn NIfTI to right, anterior, superior first; ``.npy`` has no directions.

    Raises:
        NiftiAbsent: NIfTI, and nibabel is not installed.
        DataError: it cannot be read, is too large, or is not of three dimensions.
    """
    return _numpy(path) if ending_of(path) == ".npy" else _nifti(path, reorient=reorient)


def _numpy(path: Path) -> tuple[npt.NDArray[Any], tuple[float, ...]]:
    try:
        values = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError, SyntaxError) as error:
        raise DataError("data.volume-unreadable", where=str(path), reason=first_line(str(error))) from None
    _bounded(path, values.shape)
    if values.dtype.kind not in "biuf":
        raise DataError("data.volume-numbers", where=str(path), dtype=str(values.dtype))
    return np.array(values), ()


def _nifti(path: Path, *, reorient: bool) -> tuple[npt.NDArray[Any], tuple[float, ...]]:
    try:
        nibabel: Any = importlib.import_module("nibabel")
        from nibabel.filebasedimages import ImageFileError
        from nibabel.spatialimages import HeaderDataError
    except ImportError:
        raise NiftiAbsent("data.nifti-absent", where=str(path)) from None
    try:
        image = nibabel.load(path)
        _bounded(path, [side for side in image.shape if side != 1] if image.ndim > 3 else image.shape)
        shape = tuple(int(side) for side in image.shape)
        if reorient:
            image = nibabel.as_closest_canonical(image)
            shape = tuple(int(side) for side in image.shape)
        while len(shape) > 3 and shape[-1] == 1:  # a fourth axis of one point in time
            shape = shape[:-1]
        _bounded(path, shape)
        values = np.asanyarray(image.dataobj).reshape(shape)
        spacing = tuple(float(side) for side in image.header.get_zooms()[:3])
    except (ImageFileError, HeaderDataError, OSError, ValueError, EOFError, KeyError, TypeError, zlib.error) as error:
        raise DataError("data.volume-unreadable", where=str(path), reason=first_line(str(error))) from None
    if values.dtype.kind not in "biuf":
        raise DataError("data.volume-numbers", where=str(path), dtype=str(values.dtype))
    return np.ascontiguousarray(values.transpose(2, 1, 0)), spacing[::-1]


def _bounded(path: Path, shape: Sequence[int]) -> None:
    if len(shape) != 3:
        raise DataError("data.volume-rank", where=str(path), size=_shown(shape))
    if math.prod(shape) > MOST_VOXELS or min(shape) < 1:
        raise DataError("data.volume-size", where=str(path), size=_shown(shape), most=MOST_VOXELS)


def _shown(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))[:80]
