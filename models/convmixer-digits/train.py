"""Trains ``weights/convmixer_digits.pth`` on 1,200 of scikit-learn's handwritten digits, on the CPU.

python models/convmixer-digits/train.py               about a minute on 2 cores; needs scikit-learn
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import math
import time
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from pth2om.data.preprocess import Preprocessor
from pth2om.spec import Spec, load

HERE = Path(__file__).resolve().parent
SEED = 20261121
BATCH = 50
STEPS = 1500
LEARNING_RATE = 1e-2
WEIGHT_DECAY = 0.05
SMOOTHING = 0.1


def module_at(path: Path, name: str) -> ModuleType:
    """The Python file at ``path`` as a module."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


net = module_at(HERE.parent / "convmixer" / "net.py", "convmixer_net")


def placed(spec: Spec, pixels: np.ndarray) -> Tensor:
    """uint8 (N, 8, 8) as the net's input, float32 (N, 1, H, W)."""
    assert spec.preprocess is not None
    preprocess = Preprocessor(spec.preprocess)
    rgb = np.broadcast_to(pixels[..., None], (*pixels.shape, 3))
    return torch.from_numpy(np.stack([preprocess(np.ascontiguousarray(image))[0] for image in rgb]))


def moved(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image turned by up to 14 degrees, scaled by up to 12 %, shifted by up to an eighth, sheared a little."""
    count = len(images)
    draws = torch.rand(5, count, generator=generator) * 2 - 1
    angle, scale, shear = draws[0] * 0.25, 1 + draws[1] * 0.12, draws[4] * 0.15
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    matrix = torch.stack(
        (torch.stack((cos, shear - sin, draws[2] * 0.2), 1), torch.stack((sin, cos, draws[3] * 0.2), 1)), 1
    )
    grid = functional.affine_grid(matrix, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, padding_mode="zeros", align_corners=False)


def train(module: nn.Module, images: Tensor, labels: Tensor, steps: int, *, schedule: int = STEPS) -> list[float]:
    """Train ``module`` in place on moved images; at the end it holds the moving average of its weights.

    Returns:
        The loss of each step.
    """
    generator = torch.Generator().manual_seed(SEED)
    optimizer = torch.optim.AdamW(module.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    average = copy.deepcopy(module)
    module.train()
    losses: list[float] = []
    for step in range(steps):
        rate = min(1.0, (step + 1) / 50) * 0.5 * (1 + math.cos(math.pi * step / schedule))
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * rate
        chosen = torch.randint(len(images), (BATCH,), generator=generator)
        logits = module(moved(images[chosen], generator))
        loss = functional.cross_entropy(logits, labels[chosen], label_smoothing=SMOOTHING)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        decay = min(0.99, (1 + step) / (10 + step))
        for kept, new in zip(average.state_dict().values(), module.state_dict().values(), strict=True):
            kept.copy_(torch.lerp(kept, new, 1 - decay) if kept.is_floating_point() else new)
    module.load_state_dict(average.state_dict())
    module.eval()
    return losses


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="default: the file named in model.toml")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(SEED)
    spec = load(HERE)
    digits = module_at(HERE.parent.parent / "calib" / "digits" / "make.py", "digits_make")
    (pixels, labels), (held_pixels, held_labels) = digits.digits()
    module = net.build(spec.source.num_classes, **spec.source.arguments)
    started = time.monotonic()
    losses = train(module, placed(spec, pixels), torch.from_numpy(labels.astype(np.int64)), STEPS)
    print(f"loss {np.mean(losses[-100:]):.4f} after {time.monotonic() - started:.0f} s")
    with torch.inference_mode():
        right = int((module(placed(spec, held_pixels)).argmax(1).numpy() == held_labels).sum())
    print(f"held-out: {right} of {len(held_labels)}, {100 * right / len(held_labels):.2f} %")
    out = arguments.out or HERE / "weights" / str(spec.source.checkpoint)
    temporary = out.with_name(out.name + ".part")
    torch.save(module.state_dict(), temporary)
    temporary.replace(out)
    print(f"{out}: {out.stat().st_size / 1e6:.2f} MB, {time.process_time() / 60:.1f} CPU minutes")


if __name__ == "__main__":
    main()
