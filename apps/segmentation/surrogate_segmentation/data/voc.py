"""PASCAL VOC 2011 and 2012, segmentation (Everingham et al., 2010): background and 20 classes, no test."""

from __future__ import annotations

from pathlib import Path

from surrogate_segmentation.data.layout import VOID, Layout, Listing, by_stem, label_table, paired, read_names

CLASSES = (
    "background",
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)


def read(root: Path) -> Listing:
    """Lists `JPEGImages` and `SegmentationClass` by `ImageSets/Segmentation/{train,val}.txt`.

    The masks are palette images: their indices are the class ids, 255 is the void border around objects.

    Raises:
        DataError: a list cannot be read, or names a sample without image or mask.
    """
    images, labels = by_stem(root / "JPEGImages"), by_stem(root / "SegmentationClass")
    lists = {split: root / "ImageSets" / "Segmentation" / f"{split}.txt" for split in ("train", "val")}
    return Listing(
        title="PASCAL VOC",
        root=root,
        classes=CLASSES,
        ignore_index=VOID,
        labels=label_table({**{i: i for i in range(len(CLASSES))}, VOID: VOID}),
        size=(375, 500),
        splits={
            split: paired(images, labels, where=str(path), names=read_names(path)) for split, path in lists.items()
        },
        hint="these are not VOC's own masks: for other ids use the folder layout with a [label_map]",
    )


VOC = Layout(
    name="voc",
    marks=("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"),
    read=read,
    below=(".", "VOC2012", "VOC2011", "VOCdevkit/VOC2012", "VOCdevkit/VOC2011"),
)
