"""A small repository of models: one model with weights, one dataset with labels."""

from __future__ import annotations

import pytest

from pth2om import evidence

SPEC = """\
task = "classification"

[source]
checkpoint = "tiny.pth"
num_classes = 3

[[inputs]]
name = "image"
shape = [3, 8, 8]

[export]
outputs = ["logits"]

[preprocess]
size = [8, 8]

[[slices]]
name = "scores"
kind = "scores"

[variants]
precision = ["fp16", "origin"]
batch = [1, 2]

[[datasets]]
name = "dots"
metric = "top1"
"""

NET = """\
import torch

TEMPLATE_NAME = "tiny"


def build(num_classes, pretrained=False):
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(256, num_classes),
    )
"""

DATASET = """\
kind = "npz"
names = ["a", "b", "c"]
"""


def records(repo: pytest.Pytester) -> list[evidence.Record]:
    (path,) = (repo.path / "reports").glob("*/evidence.jsonl")
    return list(evidence.read(path))
