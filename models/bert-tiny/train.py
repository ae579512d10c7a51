"""Trains ``weights/bert_tiny.pth`` on drawn sentences, on the CPU.

    python models/bert-tiny/train.py                  about 65 s of CPU time, on one core
    python models/bert-tiny/train.py --steps 20       a taste of it; writes nothing

Sentences of the held-out set are left out of training. Each batch is padded to a random length, so that all gears are
trained alike. Scoring is left to an acceptance run, which has the held-out sentences.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import time
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

HERE = Path(__file__).resolve().parent
SEED = 20261127
BATCH = 64
STEPS = 2500
LEARNING_RATE = 3e-3
LENGTHS = (16, 32, 64)


def module_at(path: Path, name: str) -> ModuleType:
    """The Python file at ``path`` as a module."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def training_set() -> tuple[list[Tensor], Tensor]:
    """Ids, mask and types (N, 16) and labels (N,) of the training sentences that are not in the held-out set."""
    drawn = module_at(HERE.parent.parent / "calib" / "drawn-sentences" / "make.py", "drawn_sentences")
    held = {row.tobytes() for row in drawn.sentences("held-out")["input_ids"]}
    arrays = drawn.sentences("train")
    kept = np.array([row.tobytes() not in held for row in arrays["input_ids"]])
    names = ("input_ids", "attention_mask", "token_type_ids")
    return [torch.from_numpy(arrays[name][kept]) for name in names], torch.from_numpy(arrays["y"][kept])


def train(module: nn.Module, inputs: list[Tensor], labels: Tensor, steps: int) -> list[float]:
    """Train ``module`` in place.

    Returns:
        The loss of each step.
    """
    generator = torch.Generator().manual_seed(SEED)
    optimizer = torch.optim.AdamW(module.parameters(), LEARNING_RATE, weight_decay=0.01)
    module.train()
    losses: list[float] = []
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(1.0, (step + 1) / 100) * 0.5 * (1 + math.cos(math.pi * step / steps))
        chosen = torch.randint(len(labels), (BATCH,), generator=generator)
        length = LENGTHS[int(torch.randint(len(LENGTHS), (), generator=generator))]
        fed = [functional.pad(each[chosen], (0, length - each.shape[1])) for each in inputs]
        loss = functional.cross_entropy(module(*fed), labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    module.eval()
    return losses


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(SEED)
    net = module_at(HERE / "net.py", "bert_tiny_net")
    module = net.build(2)
    inputs, labels = training_set()
    started = time.monotonic()
    losses = train(module, inputs, labels, arguments.steps)
    print(f"loss {np.mean(losses[-100:]):.4f} after {time.monotonic() - started:.0f} s")
    if arguments.steps < STEPS:
        return
    out = HERE / "weights" / "bert_tiny.pth"
    out.parent.mkdir(exist_ok=True)
    temporary = out.with_name(out.name + ".part")
    torch.save(module.state_dict(), temporary)
    temporary.replace(out)
    print(f"{out}: {out.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
