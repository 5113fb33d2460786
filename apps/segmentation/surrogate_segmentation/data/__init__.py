"""Readers of segmentation data sets, one layout a file."""

from .opening import open_data
from .samples import SegmentationData, Split, denormalise

__all__ = ["SegmentationData", "Split", "denormalise", "open_data"]
