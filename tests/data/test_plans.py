"""nnU-Net's plans and dataset.json: read, or refused in a sentence that names the place."""

from __future__ import annotations

import contextlib
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pth2om.data.normalizing import preparation
from pth2om.data.plans import read_dataset_json, read_plans
from pth2om.data.resampling import Method, Resampling
from pth2om.errors import DataError, SpecError
from pth2om.harness.cases import read_cases
from pth2om.spec import Channel, load

ROOT = Path(__file__).parents[2]

CT = {"mean": 50.5, "median": 51.0, "std": 20.25, "min": -900.0, "max": 900.0}
CT |= {"percentile_00_5": -100.0, "percentile_99_5": 240.0}
V2: dict[str, Any] = {
    "dataset_name": "Dataset009_Spleen",
    "plans_name": "nnUNetPlans",
    "transpose_forward": [0, 1, 2],
    "transpose_backward": [0, 1, 2],
    "configurations": {
        "2d": {
            "patch_size": [512, 512],
            "spacing": [0.79, 0.79],
            "normalization_schemes": ["CTNormalization"],
            "use_mask_for_norm": [False],
        },
        "3d_lowres": {"inherits_from": "3d_fullres", "patch_size": [64, 160, 160], "spacing": [2.7, 1.3, 1.3]},
        "3d_fullres": {
            "patch_size": [64, 192, 160],
            "spacing": [1.6, 0.79, 0.79],
            "normalization_schemes": ["CTNormalization"],
            "use_mask_for_norm": [True],
        },
        "3d_cascade_fullres": {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"},
    },
    "foreground_intensity_properties_per_channel": {"0": CT},
}
V1: dict[str, Any] = {
    "num_stages": 2,
    "num_modalities": 2,
    "modalities": {"0": "CT", "1": "PET"},
    "normalization_schemes": {"0": "CT", "1": "nonCT"},
    "use_mask_for_norm": {"0": False, "1": True},
    "num_classes": 2,
    "all_classes": [1, 2],
    "transpose_forward": [1, 0, 2],
    "dataset_properties": {"intensityproperties": {"0": {**CT, "sd": CT["std"]}, "1": {}}},
    "plans_per_stage": {
        "0": {"patch_size": [80, 96, 96], "current_spacing": [3.0, 1.5, 1.5], "batch_size": 2},
        "1": {"patch_size": [48, 192, 192], "current_spacing": [3.0, 0.7, 0.7], "batch_size": 2},
    },
}
AS_CT = Channel(normalization="ct", mean=50.5, std=20.25, low=-100.0, high=240.0)


def written(folder: Path, data: object) -> Path:
    path = folder / "plans.json"
    path.write_text(data if isinstance(data, str) else json.dumps(data), encoding="utf-8")
    return path


def test_plans_of_v2(tmp_path: Path) -> None:
    path = written(tmp_path, V2)
    plans = read_plans(path)
    assert (plans.version, plans.configuration, plans.patch) == (2, "3d_fullres", (64, 192, 160))
    assert plans.spacing == (1.6, 0.79, 0.79)
    assert plans.channels == (AS_CT,)  # v2 masks nothing in CT
    assert plans.classes is None
    assert read_plans(path, "3d_lowres").channels == (AS_CT,)  # inherited
    assert read_plans(path, patch=(64, 160, 160)).configuration == "3d_lowres"
    assert read_plans(path, patch=(512, 512)).spacing == (0.79, 0.79)
    # The cascade's second stage has the patch of 3d_fullres, which is the usual one.
    assert read_plans(path, patch=(64, 192, 160)).configuration == "3d_fullres"


def test_plans_of_v1(tmp_path: Path) -> None:
    plans = read_plans(written(tmp_path, V1))
    assert (plans.version, plans.configuration, plans.patch) == (1, "1", (48, 192, 192))
    assert plans.channels == (AS_CT, Channel(masked=True))
    assert plans.transpose == (1, 0, 2)
    assert plans.classes == 3
    assert read_plans(written(tmp_path, V1), "0").patch == (80, 96, 96)


def without(data: dict[str, Any], *path: str) -> dict[str, Any]:
    copy = json.loads(json.dumps(data))
    inner = copy
    for key in path[:-1]:
        inner = inner[key]
    del inner[path[-1]]
    return copy


def changed(data: dict[str, Any], value: object, *path: str) -> dict[str, Any]:
    copy = json.loads(json.dumps(data))
    inner = copy
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return copy


FULL = ("configurations", "3d_fullres")
WRONG: dict[str, tuple[object, str]] = {
    "list": ([], "data.plans-unknown"),
    "other": ({"labels": {}}, "data.plans-unknown"),
    "text": ("{", "data.json-unreadable"),
    "deep": ("[" * 100_000, "data.json-unreadable"),
    "digits": ('{"configurations": ' + "9" * 10_000 + "}", "data.json-unreadable"),
    "none": (changed(V2, {}, "configurations"), "data.plans-value"),
    "patch": (without(V2, *FULL, "patch_size"), "data.plans-missing"),
    "huge": (changed(V2, [10**9] * 3, *FULL, "patch_size"), "data.plans-value"),
    "negative": (changed(V2, [64, -1, 4], *FULL, "patch_size"), "data.plans-value"),
    "words": (changed(V2, "big", *FULL, "patch_size"), "data.plans-value"),
    "scheme": (changed(V2, ["Mine\x1b[31m"], *FULL, "normalization_schemes"), "data.plans-scheme"),
    "intensities": (changed(V2, {}, "foreground_intensity_properties_per_channel"), "data.plans-no-intensities"),
    "zero": (changed(V2, 0, "foreground_intensity_properties_per_channel", "0", "std"), "data.plans-value"),
    "upside-down": (
        changed(V2, 900, "foreground_intensity_properties_per_channel", "0", "percentile_00_5"),
        "data.plans-no-intensities",
    ),
    "axes": (changed(V2, [0, 1, 1], "transpose_forward"), "data.plans-value"),
    "spacing": (changed(V2, [1.0], *FULL, "spacing"), "data.plans-value"),
    "itself": (changed(V2, "3d_fullres", *FULL, "inherits_from"), "data.plans-inheritance"),
    "nobody": (changed(V2, "mine", *FULL, "inherits_from"), "data.plans-inheritance"),
    "v1-stage": (changed(V1, {}, "plans_per_stage"), "data.plans-value"),
    "v1-classes": (changed(V1, "two", "num_classes"), "data.plans-value"),
    "v1-scheme": (changed(V1, "CT2", "normalization_schemes", "0"), "data.plans-scheme"),
}


@pytest.mark.parametrize("name", WRONG)
def test_odd_plans_are_refused_in_a_sentence(tmp_path: Path, name: str) -> None:
    data, key = WRONG[name]
    path = written(tmp_path, data)
    with pytest.raises(DataError) as caught:
        read_plans(path, None if name.startswith("v1") or name in ("list", "other", "none") else "3d_fullres")
    assert caught.value.message.key == key
    text = str(caught.value)
    assert str(path) in text
    assert "\x1b" not in text
    assert len(text) < 800


def test_a_pickle_is_not_run(tmp_path: Path) -> None:
    path = tmp_path / "plans_3D.pkl"
    path.write_bytes(pickle.dumps(V1))
    with pytest.raises(DataError) as caught:
        read_plans(path)
    assert caught.value.message.key == "data.plans-pickle"
    assert "json.dump" in str(caught.value)


def test_names_and_patches_that_are_not_there(tmp_path: Path) -> None:
    path = written(tmp_path, V2)
    for options, key in (
        ({"configuration": "3d"}, "data.plans-no-configuration"),
        ({"patch": (1, 2, 3)}, "data.plans-no-patch"),
    ):
        with pytest.raises(DataError) as caught:
            read_plans(path, **options)
        assert caught.value.message.key == key
        assert "3d_lowres (64x160x160)" in str(caught.value)


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)
KEYS = [*V2, *V2["configurations"]["3d_fullres"], *V1, "labels", "channel_names", "inherits_from"]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from([V1, V2]), st.sampled_from(KEYS), JSON, st.booleans())
def test_any_value_anywhere_is_read_or_refused(tmp_path: Path, data: Any, key: str, value: Any, inner: bool) -> None:
    changed_data = json.loads(json.dumps(data))
    target = changed_data["configurations"]["3d_fullres"] if inner and "configurations" in data else changed_data
    target[key] = value
    path = written(tmp_path, json.dumps(changed_data))
    for read in (read_plans, read_dataset_json):
        with contextlib.suppress(DataError):  # anything else would be a traceback
            read(path)


def test_dataset_json_of_both_versions(tmp_path: Path) -> None:
    path = tmp_path / "dataset.json"
    path.write_text(
        json.dumps(
            {
                "labels": {"background": 0, "liver": 1, "tumour": 2, "ignore": 3},
                "channel_names": {"0": "CT"},
                "file_ending": ".nii.gz",
            }
        )
    )
    found = read_dataset_json(path)
    assert found.names == ("background", "liver", "tumour")
    assert (found.channels, found.ending, found.ignored) == (("CT",), ".nii.gz", 3)
    path.write_text(
        json.dumps({"labels": {"0": "background", "2": "b", "1": "a"}, "modality": {"0": "MRI", "1": "T2"}})
    )
    found = read_dataset_json(path)
    assert found.names == ("background", "a", "b")
    assert found.channels == ("MRI", "T2")


@pytest.mark.parametrize(
    ("labels", "key"),
    [
        ({"background": 0, "whole": [1, 2]}, "data.dataset-json-order"),
        ({"background": 0, "whole": [1, {}]}, "data.dataset-json-label"),
        ({"background": 0, "whole": [], "core": [1, 2]}, "data.dataset-json-label"),
        ({"background": 0, "a": 2}, "data.dataset-json-gaps"),
        ({"background": 0, "a": 0}, "data.dataset-json-label"),
        ({"background": 0, "a": "x"}, "data.dataset-json-label"),
        ({"background": -1}, "data.dataset-json-label"),
        ({}, "data.plans-value"),
    ],
)
def test_labels_that_are_no_classes(tmp_path: Path, labels: object, key: str) -> None:
    path = tmp_path / "dataset.json"
    path.write_text(json.dumps({"labels": labels}))
    with pytest.raises(DataError) as caught:
        read_dataset_json(path)
    assert caught.value.message.key == key


REGIONS = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "deep": 3, "ignore": 4}


def test_regions_with_their_order(tmp_path: Path) -> None:
    path = tmp_path / "dataset.json"
    path.write_text(json.dumps({"labels": REGIONS, "regions_class_order": [1, 2, 3], "channel_names": {"0": "MR"}}))
    found = read_dataset_json(path)
    assert found.regions is not None
    assert found.regions.labels == ((1, 2, 3), (2, 3), (3,))
    assert (found.regions.names, found.regions.order) == (("whole", "core", "deep"), (1, 2, 3))
    assert (found.heads, found.labels, found.ignored) == (3, 4, 4)  # the background has no head


@pytest.mark.parametrize(
    ("order", "key"),
    [
        ([1, 2], "data.dataset-json-order"),
        ([1, 2, 9], "data.dataset-json-order-label"),
        ([1, 2, "x"], "data.plans-value"),
        ("123", "data.plans-value"),
    ],
)
def test_orders_that_are_none(tmp_path: Path, order: object, key: str) -> None:
    path = tmp_path / "dataset.json"
    path.write_text(json.dumps({"labels": REGIONS, "regions_class_order": order}))
    with pytest.raises(DataError) as caught:
        read_dataset_json(path)
    assert caught.value.message.key == key


def test_a_cascades_second_stage_is_refused_and_its_first_is_named(tmp_path: Path) -> None:
    path = written(tmp_path, V2)
    with pytest.raises(DataError) as caught:
        read_plans(path, "3d_cascade_fullres")
    assert caught.value.message.key == "data.plans-cascade"
    assert "3d_lowres" in caught.value.message.with_fix()
    assert read_plans(path, "3d_lowres").configuration == "3d_lowres"


def test_the_second_stage_is_no_choice_beside_one_that_is(tmp_path: Path) -> None:
    path = written(tmp_path, without(without(V2, "configurations", "2d"), "configurations", "3d_lowres"))
    assert read_plans(path, patch=(64, 192, 160)).configuration == "3d_fullres"
    renamed = json.loads(json.dumps(V2).replace("3d_fullres", "mine").replace('"3d_lowres"', '"low"'))
    assert read_plans(written(tmp_path, renamed), patch=(64, 192, 160)).configuration == "mine"


def test_resampling_is_read_from_the_plans(tmp_path: Path) -> None:
    assert read_plans(written(tmp_path, V2)).resampling == Resampling()  # plans without it: nnU-Net's usual
    assert read_plans(written(tmp_path, V1)).resampling == Resampling(first=True)
    names = dict.fromkeys(("resampling_fn_data", "resampling_fn_probabilities"), "resample_data_or_seg_to_shape")
    spline = {"is_seg": False, "order": 2, "order_z": 1, "force_separate_z": True}
    table = names | {"resampling_fn_data_kwargs": spline, "resampling_fn_probabilities_kwargs": {"order": 0}}
    found = read_plans(written(tmp_path, changed(V2, {**V2["configurations"]["3d_fullres"], **table}, *FULL)))
    # What the arguments leave out has the default of nnU-Net's function, and that is False.
    assert found.resampling == Resampling(Method("spline", 2, 1, True), Method("spline", 0, 0, False))
    table = dict.fromkeys(names, "resample_torch_fornnunet")
    torch = read_plans(written(tmp_path, changed(V2, {**V2["configurations"]["3d_fullres"], **table}, *FULL)))
    assert torch.resampling.data == torch.resampling.scores == Method("torch", 1)


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"resampling_fn_data": "mine"}, "data.plans-resampling"),
        ({"resampling_fn_data": "no_resampling_hack"}, "data.plans-resampling"),  # and not of the scores
        ({"resampling_fn_data_kwargs": {"order": 9}}, "data.plans-value"),
        ({"resampling_fn_probabilities_kwargs": {"order": [1]}}, "data.plans-value"),
        ({"resampling_fn_data": 3}, "data.plans-value"),
    ],
)
def test_resampling_that_is_not_nnunets(tmp_path: Path, change: dict[str, object], key: str) -> None:
    path = written(tmp_path, changed(V2, {**V2["configurations"]["3d_fullres"], **change}, *FULL))
    with pytest.raises(DataError) as caught:
        read_plans(path)
    assert caught.value.message.key == key


class TestInASpec:
    def model(self, folder: Path, volume: str, shape: str = "[1, 64, 192, 160]", source: str = "") -> Path:
        place = folder / "spleen"
        place.mkdir(parents=True)
        written(place, V2)
        (place / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "spleen": 1}}))
        (place / "model.toml").write_text(
            f'task = "segmentation"\n[source]\ncheckpoint = "none.pth"\n{source}\n[[inputs]]\nname = "x"\n'
            f'shape = {shape}\n[postprocess]\ndecoder = "argmax"\n[volume]\n{volume}\n'
        )
        return place

    def test_the_plans_say_how_volumes_are_prepared(self, tmp_path: Path) -> None:
        place = self.model(tmp_path, 'plans = "plans.json"\ndataset_json = "dataset.json"')
        how = preparation(load(place))
        assert how.channels == (AS_CT,)
        assert how.spacing == (1.6, 0.79, 0.79)

    @pytest.mark.parametrize(
        ("volume", "shape", "source", "key"),
        [
            ('plans = "plans.json"', "[1, 64, 64, 64]", "", "data.plans-no-patch"),
            ('plans = "plans.json"\nconfiguration = "2d"', "[1, 64, 192, 160]", "", "data.plans-differ"),
            ('plans = "plans.json"\nspacing = [1, 1, 1]', "[1, 64, 192, 160]", "", "data.plans-differ"),
            ('plans = "plans.json"', "[2, 64, 192, 160]", "", "data.plans-differ"),
            ('dataset_json = "dataset.json"', "[1, 8, 8, 8]", "num_classes = 3", "data.plans-differ"),
            ('plans = "gone.json"', "[1, 8, 8, 8]", "", "data.json-unreadable"),
        ],
    )
    def test_a_contradiction_is_found_when_the_spec_is_read(
        self, tmp_path: Path, volume: str, shape: str, source: str, key: str
    ) -> None:
        self.model(tmp_path, volume, shape, source)
        (case,) = read_cases(tmp_path, tmp_path)
        assert isinstance(case.error, SpecError)
        assert case.error.message.key == key

    def test_the_bundled_plans_are_those_of_the_bundled_spec(self) -> None:
        how = preparation(load(ROOT / "models" / "nnunet3d"))
        assert how.spacing == (1.0, 1.0, 1.0)
        assert how.channels == (Channel(),)
