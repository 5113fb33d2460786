"""CamVid (Brostow et al., 2009) with the split and the 11 classes of SegNet (Badrinarayanan et al., 2017)."""

from __future__ import annotations

from pathlib import Path

from surrogate_segmentation.data.layout import Layout, Listing, by_stem, label_table, paired

CLASSES = (
    "sky",
    "building",
    "pole",
    "road",
    "pavement",
    "tree",
    "sign symbol",
    "fence",
    "car",
    "pedestrian",
    "bicyclist",
)


def read(root: Path) -> Listing:
    """Lists `train`, `val` and, where it is there, `test`, each with its masks in the folder `<split>annot`.

    Raises:
        DataError: a folder is missing or empty, or an image or a mask has no partner.
    """
    splits = [split for split in ("train", "val", "test") if split != "test" or (root / split).is_dir()]
    void = len(CLASSES)
    return Listing(
        title="CamVid",
        root=root,
        classes=CLASSES,
        ignore_index=void,
        labels=label_table({i: i for i in range(void + 1)}),
        size=(360, 480),
        splits={
            split: paired(by_stem(root / split), by_stem(root / f"{split}annot"), where=str(root / split))
            for split in splits
        },
        hint="these are not SegNet's masks of CamVid: for other ids use the folder layout with a [label_map]",
    )


CAMVID = Layout(name="camvid", marks=("train", "trainannot", "val", "valannot"), read=read)
