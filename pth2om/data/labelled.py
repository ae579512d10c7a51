"""A dataset on this machine: its images one at a time, its labels, and a digest of its content."""

from __future__ import annotations

import functools
import hashlib
import json
import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from pth2om.data import sources, volumes
from pth2om.data.image import Pixels
from pth2om.data.manifest import Manifest, load_manifest
from pth2om.data.recipes import made
from pth2om.errors import Absent, DataError
from pth2om.files import is_file, is_folder, is_there
from pth2om.store import Store

VERSION = 1
T = TypeVar("T")


class DatasetAbsent(DataError, Absent):  # noqa: N818 - absence is no mistake
    """The data is not on this machine; the text explains how to get it. What needs it is *not measured*."""


class Kept:
    """The first pictures of a dataset, as they were made ready, up to a fixed amount of memory.

    The first, not the last: whoever scores goes through all of them in the same order, and of a dataset that is larger
    than the memory the last ones would never be there when they are wanted again.

    A picture that somebody only looked at (`pth2om.data.alike` does, before anything is scored) is kept as it was
    decoded, until it is made ready.

    Args:
        most: bytes of pixels that are kept.
    """

    def __init__(self, most: int = 1 << 26) -> None:
        self._left = most
        self._lock = threading.Lock()  # several threads may look at pictures
        self._decoded: dict[int, Pixels] = {}
        self._ready: dict[tuple[int, Hashable], tuple[Pixels, Any]] = {}

    def decoded(self, index: int, decode: Callable[[], Pixels]) -> Pixels:
        """What ``decode`` returns for a picture, called once where there is room; it cannot be written to."""
        found = self._decoded.get(index)
        if found is None:
            found = decode()
            found.setflags(write=False)
            with self._lock:
                if found.nbytes <= self._left and index not in self._decoded:
                    self._left -= found.nbytes
                    self._decoded[index] = found
        return found

    def ready(self, index: int, how: Hashable, make: Callable[[], tuple[Pixels, T]]) -> tuple[Pixels, T]:
        """What ``make`` returns for a picture, called once where there is room; its pixels are not to be written to.

        Args:
            index: which picture.
            how: it was made ready.
            make: makes it, from what `decoded` gives.
        """
        found = self._ready.get((index, how))
        if found is None:
            found = make()
            with self._lock:
                decoded = self._decoded.pop(index, None)
                self._left += 0 if decoded is None else decoded.nbytes
                if found[0].nbytes <= self._left and (index, how) not in self._ready:
                    self._left -= found[0].nbytes
                    self._ready[index, how] = found
        return found


class Labelled:
    """Images and their labels.

    Attributes:
        manifest: where it comes from.
        folder: where the data lies.
        names: class names, in class order; empty when unknown.
        categories: for ``coco``: the category id of each class.
        kept: pictures that were decoded or made ready already; every session that is scored is fed the same ones.
    """

    def __init__(self, manifest: Manifest, folder: Path, source: sources.Source, subset: int | None = None) -> None:
        self.manifest = manifest
        self.folder = folder
        self.names = source.names
        self.categories = source.categories
        self.kept = Kept()
        self._source = source
        self._count = len(source.files) if subset is None else min(subset, len(source.files))

    def __len__(self) -> int:
        return self._count

    @property
    def name(self) -> str:
        """The dataset's name."""
        return self.manifest.name

    @property
    def classes(self) -> int | None:
        """The number of classes; None if it is not known."""
        return self.manifest.classes or len(self.names) or None

    @property
    def has_labels(self) -> bool:
        """Whether the images have labels of any kind."""
        return self._source.has_labels

    @property
    def has_classes(self) -> bool:
        """Whether each image has one class (boxes and masks are not classes)."""
        return self._source.labels is not None

    @property
    def whole(self) -> bool:
        """Whether ``subset`` leaves no image out."""
        return self._count == len(self._source.files)

    def file(self, index: int) -> str:
        """The name of an image, unique in the dataset."""
        return self._source.files[self._checked(index)]

    def image(self, index: int) -> Pixels:
        """The pixels of an image, uint8 (H, W, 3), RGB; they cannot be written to.

        Raises:
            DataError: it cannot be read; named with its number and file.
        """
        return self.kept.decoded(self._checked(index), functools.partial(self._source.image, index))

    def label(self, index: int) -> int:
        """The class of an image.

        Raises:
            DataError: the dataset has no class labels.
        """
        labels = self._source.labels
        if labels is None:
            raise DataError("data.no-labels", where=str(self.folder), name=self.name)
        return int(labels[self._checked(index)])

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """The classes of all images, int64 (N,).

        Raises:
            DataError: the dataset has no class labels.
        """
        if self._source.labels is None:
            raise DataError("data.no-labels", where=str(self.folder), name=self.name)
        return self._source.labels[: self._count]

    def annotations(self, index: int) -> Sequence[Mapping[str, Any]]:
        """The boxes of an image of kind ``coco``: ``bbox`` (x, y, w, h pixels), ``area``, ``iscrowd``, ``class``."""
        return self._source.annotations(self._checked(index))

    def mask(self, index: int) -> npt.NDArray[np.uint8]:
        """The class of every pixel of an image, uint8 (H, W); 255 is ignored."""
        return self._source.mask(self._checked(index))

    @property
    def has_images(self) -> bool:
        """Whether `image` gives pictures: neither arrays nor volumes."""
        return not self.has_volumes and not self.has_arrays

    @property
    def has_arrays(self) -> bool:
        """Whether these are arrays, one an input, and no images."""
        return not self.has_volumes and self._source.tensors is not None

    def array(self, name: str) -> npt.NDArray[Any]:
        """All rows of an input, of kind ``arrays``.

        Raises:
            DataError: there is no such array, or these are no arrays.
        """
        known = self._source.tensors or {} if self.has_arrays else {}
        if name not in known:
            raise DataError("data.no-array", where=self.name, name=name, known=", ".join(known) or "-")
        return known[name]

    @property
    def samples_are(self) -> str:
        """What it holds, as sentences and units name it: ``images``, ``volumes`` or ``samples``."""
        return self.manifest.samples_are

    @property
    def has_volumes(self) -> bool:
        """Whether these are volumes, which have no `image` and no `mask`."""
        return self._source.has_volumes

    def volume(self, index: int, *, reorient: bool = False) -> volumes.Volume:
        """The channels of a case, of kind ``volumes``.

        Args:
            index: which case.
            reorient: turn NIfTI to right, anterior, superior first.

        Raises:
            DataError: it cannot be read, or these are pictures.
        """
        return self._volumes.volume(self._checked(index), reorient=reorient)

    def truth(self, index: int, *, reorient: bool = False) -> volumes.Labels:
        """The class of every voxel of a case, int16; `pth2om.data.volumes.IGNORED` is not scored.

        Args:
            index: which case.
            reorient: as of `volume`.

        Raises:
            DataError: it cannot be read or has labels of no class, or these are pictures.
        """
        return self._volumes.truth(self._checked(index), reorient=reorient)

    @property
    def _volumes(self) -> volumes.VolumeSource:
        if not isinstance(self._source, volumes.VolumeSource):
            raise DataError("data.images-no-volume", where=self.name)
        return self._source

    @functools.cached_property
    def digest(self) -> str:
        """sha256 of what a measurement depends on: the images' bytes and names, labels, class names.

        The content of image files is read once and remembered by their sizes and modification times, so a later run
        only looks at the folder.
        """
        digest = hashlib.sha256(f"{VERSION}\0{self.manifest.kind}\0".encode())
        digest.update(json.dumps([self.names, self.categories], ensure_ascii=True).encode())
        digest.update(self._source.content(self._count, Store()).encode())
        return digest.hexdigest()

    @property
    def exact(self) -> bool:
        """Whether these are exactly the files that the manifest's figures belong to (True if it has no digest)."""
        return self.whole and self.manifest.content in (None, self.digest)

    def _checked(self, index: int) -> int:
        if not 0 <= index < self._count:
            raise IndexError(f"image {index} of {self._count}")
        return index


def open_dataset(
    name: str,
    *,
    calib_root: Path,
    data_roots: Sequence[Path] = (),
    overrides: Mapping[str, Path] | None = None,
    subset: int | None = None,
    store: Store | None = None,
) -> Labelled:
    """Open a dataset by its name; nothing is decoded yet.

    It is searched in the folder that ``overrides`` names, else in its own folder under ``calib_root``, else in
    ``data_roots``; data with a recipe is made if it is not in the store.

    Args:
        name: folder under ``calib_root``.
        calib_root: folder of the manifests.
        data_roots: data folders, searched in order.
        overrides: dataset name -> folder (``--om-dataset NAME=DIR``).
        subset: use only this many images, from the first on.
        store: where made data is kept; default the user's.

    Raises:
        DatasetAbsent: the data is not on this machine.
        DataError: there is no such manifest, or labels and images do not belong together.
        SpecError: the manifest is wrong.
    """
    manifest = load_manifest(calib_root / name)
    if subset is not None and subset < 1:
        raise DataError("data.empty-subset", where=str(manifest.place), subset=subset)
    folder = _locate(manifest, data_roots, overrides or {}, store)
    source = read_source(manifest, folder)
    if name not in (overrides or {}) and manifest.count not in (None, len(source.files)):
        where, found = str(manifest.place), len(source.files)
        raise DataError("data.recipe-count", where=where, count=manifest.count, found=found)
    return Labelled(manifest, folder, source, subset)


def read_source(manifest: Manifest, folder: Path) -> sources.Source | volumes.VolumeSource:
    """Labels and files of a dataset of any kind; nothing is decoded.

    Raises:
        DataError: files are missing, or labels and files do not belong together.
    """
    return volumes.read(manifest, folder) if manifest.kind == "volumes" else sources.read(manifest, folder)


def _locate(manifest: Manifest, data_roots: Sequence[Path], overrides: Mapping[str, Path], store: Store | None) -> Path:
    override = overrides.get(manifest.name)
    if override is not None:
        if not _holds(manifest, override):
            raise DataError(
                "data.override-empty",
                where=str(override),
                name=manifest.name,
                wanted=_wanted(manifest),
                kind=manifest.kind,
            )
        return override
    if manifest.recipe is not None:
        return made(manifest, store or Store())
    folder = manifest.folder or ("" if manifest.kind in ("npz", "arrays") else manifest.name)
    candidates = [
        manifest.place,
        *(root / folder for root in data_roots),
        *(root / manifest.name for root in data_roots),
    ]
    for candidate in candidates:
        if _holds(manifest, candidate):
            return candidate
    raise DatasetAbsent(
        "data.absent",
        where=manifest.name,
        how_en=manifest.advice("en"),
        how_zh=manifest.advice("zh"),
        looked=", ".join(str(candidate) for candidate in dict.fromkeys(candidates)),
        wanted=_wanted(manifest),
        licence=manifest.licence or "-",
        source=manifest.source or "-",
    )


def _wanted(manifest: Manifest) -> str:
    if manifest.kind in ("npz", "arrays"):
        return manifest.array_file
    if manifest.kind == "volumes":
        return manifest.images or "imagesTs"
    return manifest.label_file or manifest.images or "*.jpg, *.png"


def _holds(manifest: Manifest, folder: Path) -> bool:
    """Whether the folder looks like this dataset; errors inside it are reported when it is read."""
    if not is_folder(folder):
        return False
    if manifest.kind in ("npz", "arrays"):
        return is_file(folder / manifest.array_file)
    if manifest.kind == "volumes":
        return is_there(folder / (manifest.images or "imagesTs"))
    if manifest.label_file:
        return is_there(folder / manifest.label_file)
    if manifest.images:
        return is_folder(folder / manifest.images)
    if manifest.kind == "folders":
        return any(entry.is_dir() for entry in folder.iterdir())
    return any(sources.is_image(entry) for entry in folder.iterdir())
