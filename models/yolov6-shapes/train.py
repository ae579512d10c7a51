"""Trains ``weights/yolov6_shapes.pth`` on 1,000 drawn pictures: a YOLOv6 of width 8 at 224 pixels, on the CPU.

    python models/yolov6-shapes/train.py                  the whole training (about 10 minutes on 2 cores)
    python models/yolov6-shapes/train.py --steps 20       a taste of it; writes nothing

Task-aligned assignment (Feng et al. 2021, TOOD), varifocal loss on the scores (Zhang et al. 2021) and generalized IoU
on the boxes (Rezatofighi et al. 2019); AdamW, one cosine, an exponential moving average of the weights is what is kept.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from pth2om.data.preprocess import Preprocessor
from pth2om.spec import Spec, load

HERE = Path(__file__).resolve().parent
SEED = 20261121
BATCH = 16
STEPS = 1200
LEARNING_RATE = 4e-3
WARM_UP = 60
WEIGHT_DECAY = 0.02
EMA_DECAY = 0.995

TOP_CANDIDATES = 10
ALIGNMENT = (1.0, 4.0)
"""Powers of score and IoU in the alignment of a cell with a box."""
BOX_WEIGHT = 2.5


def module_at(path: Path, name: str) -> ModuleType:
    """The Python file at ``path`` as a module."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


net = module_at(HERE.parent / "yolov6n" / "net.py", "yolov6_net")
shapes = module_at(HERE.parent.parent / "calib" / "shapes" / "make.py", "shapes_make")


class Pictures(NamedTuple):
    """A training set.

    Attributes:
        pixels: uint8 (N, 3, H, W).
        kinds: int64 (N, most): class of each box; -1 where there is none.
        boxes: float32 (N, most, 4): left, top, right, bottom in input pixels.
    """

    pixels: Tensor
    kinds: Tensor
    boxes: Tensor


def pictures(spec: Spec, count: int) -> Pictures:
    """The first ``count`` training pictures, placed as the spec's ``[preprocess]`` places them."""
    assert spec.preprocess is not None
    preprocess = Preprocessor(spec.preprocess)
    most = 8
    kinds = torch.full((count, most), -1)
    boxes = torch.zeros(count, most, 4)
    pixels = torch.zeros(count, 3, *spec.preprocess.size, dtype=torch.uint8)
    for index in range(count):
        image, drawn = shapes.draw("train", index)
        placed, geometry = preprocess.place(image)
        pixels[index] = torch.from_numpy(np.ascontiguousarray(placed.transpose(2, 0, 1)))
        if drawn:
            kinds[index, : len(drawn)] = torch.tensor([box.kind for box in drawn])
            moved = geometry.boxes_to_input(np.array([box[1:] for box in drawn]))
            boxes[index, : len(drawn)] = torch.from_numpy(moved).float()
    return Pictures(pixels, kinds, boxes)


def batches(data: Pictures, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Endless shuffled batches: flipped, transposed, channels exchanged, brightness and contrast changed."""
    size = data.pixels.shape[-1]
    count = len(data.pixels)
    while True:
        for chosen in torch.randperm(count, generator=generator).split(BATCH):
            if len(chosen) < min(BATCH, count):
                continue
            images = data.pixels[chosen].float() / 255
            boxes = data.boxes[chosen].clone()
            flip_x, flip_y, turn = (torch.rand(len(chosen), 3, generator=generator) < 0.5).unbind(1)
            images[flip_x] = images[flip_x].flip(3)
            boxes[flip_x] = torch.stack((size - boxes[..., 2], boxes[..., 1], size - boxes[..., 0], boxes[..., 3]), 2)[
                flip_x
            ]
            images[flip_y] = images[flip_y].flip(2)
            boxes[flip_y] = torch.stack((boxes[..., 0], size - boxes[..., 3], boxes[..., 2], size - boxes[..., 1]), 2)[
                flip_y
            ]
            images[turn] = images[turn].transpose(2, 3)
            boxes[turn] = boxes[turn][..., [1, 0, 3, 2]]
            images = images[:, torch.randperm(3, generator=generator)]
            contrast, brightness = torch.rand(2, len(chosen), 1, 1, 1, generator=generator) * 0.4 - 0.2
            yield ((images - 0.5) * (1 + contrast) + 0.5 + brightness).clamp(0, 1), data.kinds[chosen], boxes


def cells(levels: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """All levels in one row: logits (N, A, classes), boxes (N, A, 4) in pixels, middles (A, 2) and strides (A, 1)."""
    logits, boxes, middles, strides = [], [], [], []
    for (scores, distances), stride in zip(levels, net.STRIDES, strict=True):
        middle = net.centres(*scores.shape[2:])
        rows = distances.flatten(2).transpose(1, 2)
        boxes.append(torch.cat((middle - rows[..., :2], middle + rows[..., 2:]), 2) * stride)
        logits.append(scores.flatten(2).transpose(1, 2))
        middles.append(middle * stride)
        strides.append(torch.full((len(middle), 1), float(stride)))
    return torch.cat(logits, 1), torch.cat(boxes, 1), torch.cat(middles), torch.cat(strides)


def overlap(a: Tensor, b: Tensor, *, generalized: bool = False) -> Tensor:
    """IoU (or generalized IoU) of boxes (..., 4), broadcast."""
    width_height = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0)
    shared = width_height.prod(-1)
    areas = [(box[..., 2:] - box[..., :2]).clamp(min=0).prod(-1) for box in (a, b)]
    union = areas[0] + areas[1] - shared + 1e-6
    if not generalized:
        return shared / union
    hull = (torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])).prod(-1) + 1e-6
    return shared / union - (hull - union) / hull


@torch.no_grad()
def assign(scores: Tensor, boxes: Tensor, middles: Tensor, kinds: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Which cell answers for which box.

    Args:
        scores: (N, A, classes) in 0..1.
        boxes: (N, A, 4) predicted, pixels.
        middles: (A, 2) pixels.
        kinds: (N, M) classes; -1 for none.
        wanted: (N, M, 4) true boxes, pixels.

    Returns:
        Per cell the number of its box, -1 for background, int64 (N, A); and how well it fits, 0..1, float32 (N, A).
    """
    real = kinds >= 0
    inside = torch.cat((middles - wanted[:, :, None, :2], wanted[:, :, None, 2:] - middles), 3).amin(3) > 0
    iou = overlap(wanted[:, :, None], boxes[:, None])
    score = scores.transpose(1, 2).gather(1, kinds.clamp(min=0)[:, :, None].expand(-1, -1, scores.shape[1]))
    alignment = score ** ALIGNMENT[0] * iou ** ALIGNMENT[1] * inside * real[:, :, None]
    best = alignment.topk(TOP_CANDIDATES, 2)
    chosen = torch.zeros_like(alignment).scatter_(2, best.indices, 1.0).bool() & (alignment > 0)
    # A cell wanted by several boxes goes to the one it overlaps most.
    owner = torch.where(chosen, iou, torch.full_like(iou, -1.0)).max(1)
    number = torch.where(owner.values >= 0, owner.indices, torch.full_like(owner.indices, -1))
    # The best aligned cell of a box is asked for that box's best IoU, the others for proportionally less.
    held = alignment * (number[:, None] == torch.arange(kinds.shape[1])[None, :, None])
    scale = (iou * (held > 0)).amax(2, keepdim=True) / held.amax(2, keepdim=True).clamp(min=1e-9)
    return number, (held * scale).amax(1)


def loss(levels: list[tuple[Tensor, Tensor]], kinds: Tensor, wanted: Tensor) -> Tensor:
    """Varifocal loss on the scores plus generalized IoU on the boxes, per unit of assigned fit."""
    logits, boxes, middles, _ = cells(levels)
    scores = logits.sigmoid()
    number, fit = assign(scores.detach(), boxes.detach(), middles, kinds, wanted)
    mine = number.clamp(min=0)
    kind = kinds.gather(1, mine).clamp(min=0)
    target = torch.zeros_like(scores).scatter_(2, kind[:, :, None], (fit * (number >= 0))[:, :, None])
    weight = torch.where(target > 0, target, 0.75 * scores.detach() ** 2)
    total = target.sum().clamp(min=1.0)
    score_loss = functional.binary_cross_entropy_with_logits(logits, target, weight, reduction="sum")
    box = wanted.gather(1, mine[:, :, None].expand(-1, -1, 4))
    box_loss = ((1 - overlap(boxes, box, generalized=True)) * target.sum(2)).sum()
    return (score_loss + BOX_WEIGHT * box_loss) / total


def prepare(module: nn.Module) -> None:
    """Start the head as detectors start: scores near 1 %, boxes of two cells."""
    for scores, boxes in zip(module.detect.cls_preds, module.detect.reg_preds, strict=True):
        nn.init.zeros_(scores.weight)
        nn.init.constant_(scores.bias, -4.6)
        nn.init.zeros_(boxes.weight)
        nn.init.constant_(boxes.bias, 1.0)


def train(module: nn.Module, data: Pictures, steps: int, *, schedule: int = STEPS, report: int = 0) -> list[float]:
    """Train ``module`` in place; at the end it holds the moving average of its weights.

    Args:
        module: as `net.build` makes it.
        data: the pictures.
        steps: how many batches.
        schedule: length of the learning rate's cosine, in steps.
        report: print every so many steps; 0 prints nothing.

    Returns:
        The loss of each step.
    """
    average = copy.deepcopy(module).eval()
    module.train()
    optimizer = torch.optim.AdamW(module.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    stream = batches(data, torch.Generator().manual_seed(SEED))
    losses: list[float] = []
    started = time.monotonic()
    for step in range(steps):
        rate = min(1.0, (step + 1) / WARM_UP) * (0.01 + 0.99 * 0.5 * (1 + np.cos(np.pi * step / schedule)))
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * rate
        images, kinds, wanted = next(stream)
        value = loss(module.levels(images), kinds, wanted)
        optimizer.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(module.parameters(), 10.0)
        optimizer.step()
        losses.append(value.item())
        _average(average, module, min(EMA_DECAY, (1 + step) / (10 + step)))
        if report and (step + 1) % report == 0:
            recent = float(np.mean(losses[-report:]))
            print(f"step {step + 1}: loss {recent:.4f}, {time.monotonic() - started:.0f} s", flush=True)
    module.load_state_dict(average.state_dict())
    module.eval()
    return losses


@torch.no_grad()
def _average(average: nn.Module, module: nn.Module, decay: float) -> None:
    for kept, new in zip(average.state_dict().values(), module.state_dict().values(), strict=True):
        if kept.is_floating_point():
            kept.lerp_(new, 1 - decay)
        else:
            kept.copy_(new)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="default: the file named in model.toml, after a whole training only")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(SEED)
    spec = load(HERE)
    module = net.build(len(shapes.CLASSES), **spec.source.arguments)
    prepare(module)
    data = pictures(spec, shapes.COUNTS["train"] if arguments.steps > 100 else 4 * BATCH)
    train(module, data, arguments.steps, report=20)
    out = arguments.out or (HERE / "weights" / str(spec.source.checkpoint) if arguments.steps == STEPS else None)
    if out is not None:
        halves = {
            key: value.half() if value.is_floating_point() else value for key, value in module.state_dict().items()
        }
        temporary = out.with_name(out.name + ".part")
        torch.save(halves, temporary)
        temporary.replace(out)
        print(f"{out}: {out.stat().st_size / 1e6:.2f} MB, {time.process_time() / 60:.1f} CPU minutes")


if __name__ == "__main__":
    main()
