"""The manifest of a dataset, ``calib/<name>/dataset.toml`` (described in docs/datasets.md)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pth2om.errors import DataError
from pth2om.language import Language, language, say
from pth2om.spec import Name, parse

Kind = Literal["images", "folders", "coco", "masks", "npz", "volumes", "arrays"]
_LABELS: dict[Kind, str] = {
    "images": "val_label.txt",
    "folders": "",
    "coco": "instances.json",
    "masks": "masks",
    "npz": "",
    "arrays": "",
    "volumes": "labelsTs",
}


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)


class HowToGet(_Table):
    """``how_to_get.en`` and ``how_to_get.zh``: how to get the data when it is absent."""

    en: str = ""
    zh: str = ""


class Manifest(_Table):
    """One dataset: what it is, where it comes from, how it is read; keys as in docs/datasets.md.

    Attributes:
        name: the folder's name.
        place: the folder of the manifest.
    """

    name: Name
    place: Path
    kind: Kind
    title: str = ""
    licence: str = ""
    source: str = ""
    how_to_get: HowToGet = HowToGet()
    folder: str = ""
    images: str | None = None
    labels: str | None = None
    file: str | None = None
    x: str = "x"
    y: str = "y"
    names: str | tuple[str, ...] | None = None
    classes: Annotated[int, Field(ge=1)] | None = None
    first_class: int = 0
    recipe: str | None = None
    count: Annotated[int, Field(ge=1)] | None = None
    content: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Manifest:
        for key in ("file", "recipe", "labels", "images", "folder"):
            value = getattr(self, key)
            if value and (Path(value).is_absolute() or ".." in Path(value).parts):
                raise ValueError(f"{key} {value!r} must be a path below the dataset's folder")
        if self.kind not in ("npz", "arrays") and self.file is not None:
            raise ValueError(f'file belongs to kind = "npz" or "arrays", not to kind = "{self.kind}"')
        if self.count is not None and self.recipe is None:
            raise ValueError("count belongs to data with a recipe")
        return self

    @property
    def samples_are(self) -> str:
        """What it holds, as sentences and units name it: ``images``, ``volumes`` or ``samples``."""
        return {"volumes": "volumes", "arrays": "samples"}.get(self.kind, "images")

    @property
    def label_file(self) -> str:
        """The label file or folder; ``""`` when the images are unlabelled."""
        return _LABELS[self.kind] if self.labels is None else self.labels

    @property
    def array_file(self) -> str:
        """The ``.npz`` file of kinds ``npz`` and ``arrays``."""
        return self.file or f"{self.name}.npz"

    def advice(self, to: Language | None = None) -> str:
        """How to get the data, in language ``to`` (default: the reader's)."""
        wanted = to or language()
        text = self.how_to_get.zh if wanted == "zh" else self.how_to_get.en
        return text or say("data.general-advice", folder=self.folder or self.name, name=self.name).render(wanted)


def load_manifest(folder: Path) -> Manifest:
    """Read ``folder/dataset.toml``.

    Raises:
        DataError: there is no such file; the message names the other datasets.
        SpecError: it is not TOML or has a wrong entry; the message gives the line and the nearest valid word.
    """
    path = folder / "dataset.toml"
    if not path.is_file():
        known = sorted(entry.parent.name for entry in folder.parent.glob("*/dataset.toml"))
        raise DataError("data.no-manifest", where=str(path), name=folder.name, known=", ".join(known) or "-")
    return parse(path, Manifest, {"name": folder.name, "place": folder.absolute()})
