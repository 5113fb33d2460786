"""Semantic segmentation: IoU and its relatives over the outputs of a convolutional network."""
