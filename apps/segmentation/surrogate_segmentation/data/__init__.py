"""Readers of segmentation data sets, one layout a file."""
