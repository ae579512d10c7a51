"""Segmentation of volumes on the host, as nnU-Net does it: plans, normalization, sliding window, Dice per class."""

from __future__ import annotations
