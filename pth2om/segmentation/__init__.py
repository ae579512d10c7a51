"""Segmentation of volumes on the host, as nnU-Net does it: the sliding window."""

from __future__ import annotations
