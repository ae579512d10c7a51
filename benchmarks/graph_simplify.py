"""onnxslim, onnxsim and our choice between them, and the time that the complete clean-up adds to an export.

python benchmarks/graph_simplify.py [ROUNDS]

Two generated graphs with the layers of ResNet-50 and of a Swin transformer (with shape arithmetic as the exporter
writes it): 169 and about 5,200 nodes. A tool's time is that of its child process, including the start.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import nn

from pth2om.graph import clean
from pth2om.graph.document import Document
from pth2om.graph.passes import simplify
from pth2om.onnxfile.walking import node_count


class Bottleneck(nn.Module):
    def __init__(self, inside: int, width: int, stride: int) -> None:
        super().__init__()
        out = width * 4
        self.path = nn.Sequential(
            nn.Conv2d(inside, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, out, 1, bias=False), nn.BatchNorm2d(out),
        )  # fmt: skip
        same = inside == out and stride == 1
        self.side = (
            nn.Identity() if same else nn.Sequential(nn.Conv2d(inside, out, 1, stride, bias=False), nn.BatchNorm2d(out))
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.path(x) + self.side(x))


def resnet50() -> nn.Module:
    layers: list[nn.Module] = [
        nn.Conv2d(3, 64, 7, 2, 3, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
    ]
    inside = 64
    for width, blocks, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for block in range(blocks):
            layers.append(Bottleneck(inside, width, stride if block == 0 else 1))
            inside = width * 4
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2048, 1000))


class Window(nn.Module):
    """Shifted-window attention that takes its sizes from the tensor, so that the exporter writes shape arithmetic."""

    def __init__(self, width: int, heads: int, shift: int) -> None:
        super().__init__()
        self.heads, self.shift, self.size = heads, shift, 7
        self.before, self.after = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.bias = nn.Parameter(torch.randn(heads, 49, 49))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, h, w, c = x.shape
        s = self.size
        y = self.before(x)
        y = nn.functional.pad(y, (0, 0, 0, (s - w % s) % s, 0, (s - h % s) % s))
        if self.shift:
            y = torch.roll(y, (-self.shift, -self.shift), (1, 2))
        hh, ww = y.shape[1], y.shape[2]
        y = y.view(n, hh // s, s, ww // s, s, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, s * s, c)
        q, k, v = self.qkv(y).view(y.shape[0], s * s, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        scores = (q * (c // self.heads) ** -0.5) @ k.transpose(-2, -1) + self.bias
        y = (scores.softmax(-1) @ v).transpose(1, 2).reshape(y.shape[0], s * s, c)
        y = self.out(y).view(n, hh // s, ww // s, s, s, c).permute(0, 1, 3, 2, 4, 5).reshape(n, hh, ww, c)
        if self.shift:
            y = torch.roll(y, (self.shift, self.shift), (1, 2))
        x = x + y[:, :h, :w, :]
        return x + self.mlp(self.after(x))


class Merge(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.linear = nn.LayerNorm(4 * width), nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = [x[:, row::2, column::2, :] for column in (0, 1) for row in (0, 1)]
        return self.linear(self.norm(torch.cat(parts, -1)))


class Swin(nn.Module):
    def __init__(self, depths: tuple[int, ...] = (2, 2, 18, 2)) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 96, 4, 4)
        layers: list[nn.Module] = []
        width = 96
        for stage, depth in enumerate(depths):
            layers += [Window(width, width // 32, 3 * (block % 2)) for block in range(depth)]
            if stage < 3:
                layers.append(Merge(width))
                width *= 2
        self.layers, self.head = nn.Sequential(*layers), nn.Linear(width, 1000)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.layers(self.patches(x).permute(0, 2, 3, 1)).mean((1, 2)))


def timed(path: Path, tool: str, folder: Path) -> tuple[float, int]:
    made = folder / "made.onnx"
    made.unlink(missing_ok=True)
    start = time.perf_counter()
    refusal = simplify._run(tool, path, made, 600.0)
    seconds = time.perf_counter() - start
    if refusal is not None:
        print(f"    {tool}: {refusal}")
        return seconds, 0
    return seconds, node_count(Document.open(made).model)


def measure(name: str, module: nn.Module, folder: Path, rounds: int) -> None:
    path = folder / f"{name}.onnx"
    torch.manual_seed(0)
    start = time.perf_counter()
    torch.onnx.export(module.eval(), (torch.randn(1, 3, 224, 224),), str(path), dynamo=False, opset_version=17)
    print(f"{name}: {node_count(Document.open(path).model)} nodes, exported in {time.perf_counter() - start:.2f} s")
    results: dict[str, list[float]] = {tool: [] for tool in simplify.TOOLS}
    nodes = {}
    for _ in range(rounds):
        for tool in simplify.TOOLS:  # alternating
            seconds, nodes[tool] = timed(path, tool, folder)
            results[tool].append(seconds)
    from pth2om.graph.contract import PassSettings

    chosen = simplify.order(Document.open(path), PassSettings())[0]
    for tool, seconds in results.items():
        mark = "  <- chosen" if tool == chosen else ""
        print(f"    {tool:9} {statistics.median(seconds):6.2f} s  {nodes[tool]} nodes{mark}")
    for folded in (False, True):
        taken = []
        for _ in range(rounds):
            start = time.perf_counter()
            cleaned = clean(path, folder / "clean.onnx", simplify=folded)
            taken.append(time.perf_counter() - start)
        applied = ", ".join(cleaned.applied) or "-"
        print(f"    clean(simplify={folded}), proof included: {statistics.median(taken):6.2f} s  {applied}")


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    with tempfile.TemporaryDirectory() as folder:
        measure("resnet50", resnet50(), Path(folder), rounds)
        measure("swin", Swin(), Path(folder), rounds)


if __name__ == "__main__":
    main()
