"""Trains ``weights/nnunet3d.pth`` on drawn volumes: balls and boxes in noise, on the CPU.

    python models/nnunet3d/train.py                  the whole training (about 3 minutes on one core)
    python models/nnunet3d/train.py --steps 20       a taste of it; writes nothing

Cross-entropy less soft Dice; the heads of deep supervision weigh 1, 1/2, ... as nnU-Net weighs them. Training patches
are cut at random places; scoring is left to an acceptance run, which has the held-out volumes.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from pth2om.spec import load

HERE = Path(__file__).resolve().parent
SEED = 20261127
BATCH = 4
STEPS = 900
LEARNING_RATE = 6e-3


def module_at(path: Path, name: str) -> ModuleType:
    """The Python file at ``path`` as a module."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


net = module_at(HERE / "net.py", "nnunet_net")
drawn = module_at(HERE.parent.parent / "calib" / "drawn-volumes" / "make.py", "drawn_volumes_make")


def cases(count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """The first training volumes: z-scored float32 and classes."""
    found = []
    for index in range(count):
        values, truth = drawn.draw("train", index)
        wide = values.astype(np.float32)
        found.append(((wide - wide.mean()) / wide.std(), truth))
    return found


def patches(
    data: list[tuple[np.ndarray, np.ndarray]], stream: np.random.Generator, patch: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    """A batch of patches cut at random places, padded with zeros where a volume is smaller, and flipped at random."""
    images = np.zeros((BATCH, 1, *patch), np.float32)
    truths = np.zeros((BATCH, *patch), np.int64)
    for row in range(BATCH):
        image, truth = data[int(stream.integers(len(data)))]
        source, target = [], []
        for whole, side in zip(truth.shape, patch, strict=True):
            at = int(stream.integers(0, max(whole - side, 0) + 1))
            to = max(side - whole, 0) // 2
            source.append(slice(at, at + side))
            target.append(slice(to, to + min(whole, side)))
        flips = [axis for axis in range(len(patch)) if stream.random() < 0.5]
        images[(row, 0, *target)] = image[tuple(source)]
        truths[(row, *target)] = truth[tuple(source)]
        images[row, 0], truths[row] = np.flip(images[row, 0], flips), np.flip(truths[row], flips)
    return torch.from_numpy(images), torch.from_numpy(truths)


def loss(scores: Tensor, truth: Tensor) -> Tensor:
    """Cross-entropy less soft Dice of the foreground."""
    hot = functional.one_hot(truth, len(drawn.CLASSES)).movedim(-1, 1).float()
    share = scores.softmax(1)
    axes = (0, *range(2, scores.ndim))
    soft = (2 * (share * hot).sum(axes) + 1) / (share.sum(axes) + hot.sum(axes) + 1)
    return functional.cross_entropy(scores, truth) - soft[1:].mean()


def train(
    module: nn.Module, data: list[tuple[np.ndarray, np.ndarray]], patch: tuple[int, ...], steps: int, *, report: int = 0
) -> list[float]:
    """Train in place; the loss of each step."""
    stream = np.random.default_rng(SEED)
    optimizer = torch.optim.AdamW(module.parameters(), LEARNING_RATE, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps + 1)
    module.train()
    module.decoder.deep_supervision = True
    losses = []
    for step in range(steps):
        images, truth = patches(data, stream, patch)
        value = torch.zeros(())
        for level, head in enumerate(module(images)):
            small = functional.interpolate(truth[:, None].float(), size=head.shape[2:], mode="nearest")[:, 0].long()
            value = value + loss(head, small) / 2**level
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        schedule.step()
        losses.append(value.item())
        if report and (step + 1) % report == 0:
            print(f"step {step + 1}: loss {np.mean(losses[-report:]):.3f}", flush=True)
    module.decoder.deep_supervision = False
    module.eval()
    return losses


def halved(module: nn.Module) -> dict[str, Tensor]:
    """The state dict in fp16; names of one tensor (nnU-Net saves the encoder twice) stay one tensor in the file."""
    kept: dict[int, Tensor] = {}
    return {name: kept.setdefault(value.data_ptr(), value.half()) for name, value in module.state_dict().items()}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=STEPS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # the order of sums, and with it the weights, depends on the number
    torch.manual_seed(SEED)
    spec = load(HERE)
    module = net.build(len(drawn.CLASSES), **spec.source.arguments)
    start = time.monotonic()
    train(module, cases(drawn.COUNTS["train"]), spec.inputs[0].shape[1:], arguments.steps, report=50)
    print(f"trained in {time.monotonic() - start:.0f} s")
    if arguments.steps == STEPS:
        out = HERE / "weights" / str(spec.source.checkpoint)
        out.parent.mkdir(exist_ok=True)
        temporary = out.with_name(out.name + ".part")
        state = {"network_weights": halved(module), "trainer_name": "train.py", "current_epoch": STEPS}
        torch.save(state, temporary)
        temporary.replace(out)
        print(f"{out.name}: {out.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
