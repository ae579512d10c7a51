"""A small BERT-like encoder with integer inputs: two layers, 32 wide, two classes."""

from __future__ import annotations

import torch
from torch import nn

TEMPLATE_NAME = "BERT-tiny"
VOCABULARY, LONGEST, WIDTH, HEADS, LAYERS = 100, 64, 32, 2, 2


class Layer(nn.Module):
    """Self-attention and a feed-forward part, each added to its input and normalized."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.wide, self.narrow = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)
        self.first, self.second = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)

    def forward(self, x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """(N, L, 32) -> (N, L, 32); `bias` (N, 1, 1, L) is very negative at padding."""
        count, length, _ = x.shape

        def heads(part: nn.Linear) -> torch.Tensor:
            return part(x).reshape(count, length, HEADS, WIDTH // HEADS).transpose(1, 2)

        scores = heads(self.query) @ heads(self.key).transpose(2, 3) * (WIDTH // HEADS) ** -0.5 + bias
        mixed = (torch.softmax(scores, -1) @ heads(self.value)).transpose(1, 2).reshape(count, length, WIDTH)
        x = self.first(x + self.out(mixed))
        return self.second(x + self.narrow(torch.nn.functional.gelu(self.wide(x))))


class Encoder(nn.Module):
    """Token, position and segment embeddings, `LAYERS` layers, and a classifier on the first token."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.words = nn.Embedding(VOCABULARY, WIDTH)
        self.places = nn.Embedding(LONGEST, WIDTH)
        self.segments = nn.Embedding(2, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.head = nn.Linear(WIDTH, num_classes)

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor
    ) -> torch.Tensor:
        """Three int64 tensors (N, L) -> logits (N, classes)."""
        places = self.places.weight[: input_ids.shape[1]]
        x = self.norm(self.words(input_ids) + places + self.segments(token_type_ids))
        # -1e4 and not -inf or -1e9: it has to stay finite in fp16.
        bias = (1.0 - attention_mask[:, None, None, :].to(x.dtype)) * -1e4
        for layer in self.layers:
            x = layer(x, bias)
        logits: torch.Tensor = self.head(x[:, 0])
        return logits


def build(num_classes: int = 2, pretrained: bool = False) -> nn.Module:
    """The encoder."""
    if pretrained:
        raise ValueError("this net holds no weights; name the checkpoint in model.toml")
    return Encoder(num_classes)
