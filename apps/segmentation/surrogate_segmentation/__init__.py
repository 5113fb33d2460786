"""Semantic segmentation: IoU and its relatives over the outputs of a convolutional network."""

from surrogate_segmentation.app import app

__all__ = ["app"]
