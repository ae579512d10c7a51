"""YOLOv6n: official keys, the reference output, and what `deploy` may change."""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from pth2om.checkpoint import Net, load_net
from pth2om.export import export
from pth2om.spec import Export, Input, load


@pytest.fixture(scope="module")
def net() -> Net:
    return load_net(Path(__file__).parents[2] / "models" / "yolov6n" / "net.py")


@pytest.fixture(scope="module")
def facts() -> Path:
    """The folder that holds the official keys and the reference output."""
    asked = os.environ.get("PTH2OM_FACTS")
    folder = Path(asked) if asked else Path(__file__).parents[3] / "shared" / "facts"
    if not (folder / "yolov6n_reference.npz").is_file():
        pytest.skip("yolov6n_reference.npz is absent: set PTH2OM_FACTS to its folder")
    return folder


def by_key(shapes: dict[str, list[int]], like: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Every tensor drawn from its own key, as the reference output's weights were."""
    tensors: dict[str, torch.Tensor] = {}
    for key, shape in shapes.items():
        random = np.random.default_rng(zlib.crc32(key.encode()))
        if key.startswith("detect.proj"):
            tensors[key] = like[key].clone()
            continue
        if key.endswith("num_batches_tracked"):
            value = np.zeros(shape)
        elif key.endswith("running_var"):
            value = random.uniform(0.5, 1.5, shape)
        elif "bn.weight" in key or key.endswith("rbr_identity.weight"):
            value = random.uniform(0.5, 1.0, shape)
        elif len(shape) == 4:
            value = random.standard_normal(shape) * np.sqrt(0.5 / np.prod(shape[1:]))
        else:
            value = random.standard_normal(shape) * 0.1
        tensors[key] = torch.from_numpy(np.asarray(value, np.float32))
    return tensors


def distance(measured: torch.Tensor, expected: np.ndarray) -> float:
    return float(np.linalg.norm(measured.numpy().astype(np.float64) - expected) / np.linalg.norm(expected))


def test_reference_output_of_the_official_keys(net: Net, facts: Path) -> None:
    shapes = json.loads((facts / "yolov6n_state_dict.json").read_text())
    module = net.build(80)
    own = module.state_dict()
    assert {key: list(tensor.shape) for key, tensor in own.items()} == shapes
    module.load_state_dict(by_key(shapes, own), strict=True)
    module.eval()
    expected = np.load(facts / "yolov6n_reference.npz")["output"].astype(np.float64)
    image = np.random.default_rng(20261121).uniform(0, 1, (1, 3, 128, 160)).astype(np.float32)
    with torch.inference_mode():
        plain, deployed = module(torch.from_numpy(image)), net.deployed(module)(torch.from_numpy(image))
    assert plain.shape == expected.shape == (1, 420, 85)
    for part in (slice(0, 4), slice(5, 85), slice(0, 85)):
        assert distance(plain[..., part], expected[..., part]) < 1e-5
        assert distance(deployed[..., part], expected[..., part]) < 1e-4


KEYS_SHA256 = "b72ae1e085d739b64e35dd129e5cbe8e112da1a8049d320da9e9f21b9f07d35b"
"""Of the official checkpoint's 756 keys and shapes, sorted, as JSON."""

SAMPLES = (
    (0, 0, 3.743558),
    (57, 2, 0.181168),
    (319, 84, 0.533936),
    (320, 1, 5.231224),
    (399, 40, 0.464288),
    (400, 5, 0.537615),
    (419, 3, 5.190353),
)
"""Row, column and value of the reference output."""


def test_official_keys_and_sampled_reference(net: Net) -> None:
    """The same without the files of facts: the keys by their digest, the output by a few of its values."""
    module = net.build(80)
    shapes = {key: list(tensor.shape) for key, tensor in module.state_dict().items()}
    assert hashlib.sha256(json.dumps(sorted(shapes.items())).encode()).hexdigest() == KEYS_SHA256
    module.load_state_dict(by_key(shapes, module.state_dict()), strict=True)
    image = np.random.default_rng(20261121).uniform(0, 1, (1, 3, 128, 160)).astype(np.float32)
    with torch.inference_mode():
        rows = net.deployed(module.eval())(torch.from_numpy(image))[0].numpy()
    for row, column, value in SAMPLES:
        assert rows[row, column] == pytest.approx(value, rel=1e-4, abs=1e-5), (row, column)


@pytest.fixture(scope="module")
def small(net: Net) -> torch.nn.Module:
    """A narrow YOLOv6 with trained-looking statistics in every BatchNorm."""
    module = net.build(3, width=0.125, depth=0.17)
    module.load_state_dict(by_key({k: list(v.shape) for k, v in module.state_dict().items()}, module.state_dict()))
    return module.eval()


def test_deploy_merges_every_branch_and_changes_nothing_else(net: Net, small: torch.nn.Module) -> None:
    before = {key: tensor.clone() for key, tensor in small.state_dict().items()}
    deployed = net.deployed(small)
    keys = list(deployed.state_dict())
    assert not any("rbr_dense" in key or "rbr_1x1" in key or "rbr_identity" in key for key in keys)
    assert sum(key.endswith("rbr_reparam.weight") for key in keys) == sum(
        "rbr_dense.conv.weight" in key for key in before
    )
    after = small.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(before[key], after[key]) for key in before)
    image = torch.rand(2, 3, 96, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert distance(deployed(image), small(image).numpy().astype(np.float64)) < 1e-5


def test_a_deployed_checkpoint_loads_too(net: Net, small: torch.nn.Module) -> None:
    deployed = net.deployed(small)
    state = {f"module.{key}": tensor for key, tensor in deployed.state_dict().items()}
    again = net.build(**net.infer(state)).eval()
    again.load_state_dict({key.removeprefix("module."): tensor for key, tensor in state.items()}, strict=True)
    image = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(again(image), deployed(image))


@pytest.mark.parametrize(("classes", "width", "depth"), [(80, 0.25, 0.33), (3, 0.125, 0.1), (7, 0.5, 0.33)])
def test_scale_is_read_off_the_weights(net: Net, classes: int, width: float, depth: float) -> None:
    state = net.build(classes, width=width, depth=depth).state_dict()
    again = net.build(**net.infer(state)).state_dict()
    assert {key: tensor.shape for key, tensor in again.items()} == {key: tensor.shape for key, tensor in state.items()}


def test_decoding_against_numpy(net: Net, small: torch.nn.Module) -> None:
    image = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(3))
    rows: list[np.ndarray] = []
    with torch.inference_mode():
        decoded = small(image).numpy()[0]
        for (logits, distances), stride in zip(small.levels(image), (8, 16, 32), strict=True):
            _, _, height, width = logits.shape
            for y in range(height):
                for x in range(width):
                    left, top, right, bottom = distances[0, :, y, x].double().numpy()
                    corners = np.array([x + 0.5 - left, y + 0.5 - top, x + 0.5 + right, y + 0.5 + bottom]) * stride
                    box = [(corners[0] + corners[2]) / 2, (corners[1] + corners[3]) / 2, *(corners[2:] - corners[:2])]
                    scores = 1 / (1 + np.exp(-logits[0, :, y, x].double().numpy()))
                    rows.append(np.array([*box, 1.0, *scores]))
    np.testing.assert_allclose(decoded, np.array(rows), rtol=1e-5, atol=1e-4)


def test_batch_12_exports_without_findings(net: Net, small: torch.nn.Module, tmp_path: Path) -> None:
    """The batch of the published post-training quantization workflow."""
    made = export(net.deployed(small), [Input(name="image", shape=(3, 64, 64))], Export(), 12, tmp_path / "m.onnx")
    assert made.findings == ()
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape == [12, 3, 64, 64]
    image = torch.rand(12, 3, 64, 64)
    with torch.inference_mode():
        expected = small(image).numpy().astype(np.float64)
    assert distance(torch.from_numpy(session.run(None, {"image": image.numpy()})[0]), expected) < 1e-5


def test_spec_has_the_promised_variants(repository: Path) -> None:
    spec = load(repository / "models" / "yolov6n")
    promised = {f"{precision}-bs{batch}" for precision in ("fp16", "mixed", "origin") for batch in (1, 4)}
    assert {variant.name for variant in spec.variants} == promised | {"fp16-bs1-aipp", "int8-bs1", "int8-bs1-aipp"}
    assert spec.source.seeded
    assert spec.preprocess is not None
    assert (spec.preprocess.size, spec.preprocess.resize, spec.preprocess.fill) == ((640, 640), "letterbox", 114)


def test_what_is_exported_is_re_parameterized(repository: Path, tmp_path: Path) -> None:
    """The net is loaded for the weights and again for the export: both have to mean the same classes."""
    import onnx

    from pth2om.conversion.pipeline import Pipeline
    from pth2om.conversion.settings import RunSettings
    from pth2om.store import Store

    spec = load(repository / "models" / "yolov6-shapes")
    pipeline = Pipeline(spec, RunSettings(repository / "models", repository / "calib"), Store(tmp_path))
    graph = onnx.load(pipeline.onnx(1).file).graph
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    module = load_net(repository / "models" / "yolov6n" / "net.py").deployed(pipeline.module())
    layers = [layer for layer in module.modules() if isinstance(layer, torch.nn.Conv2d)]
    assert 0 < len(convolutions) <= len(layers)  # proj_conv is stored and not used
    assert not any("rbr_1x1" in node.name for node in graph.node)
