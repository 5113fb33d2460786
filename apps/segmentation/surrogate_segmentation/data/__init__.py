"""Readers of segmentation data sets, one layout a file."""

from surrogate_segmentation.data.opening import open_data
from surrogate_segmentation.data.samples import SegmentationData, Split, denormalise

__all__ = ["SegmentationData", "Split", "denormalise", "open_data"]
