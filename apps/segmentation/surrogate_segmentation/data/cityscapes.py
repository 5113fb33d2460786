"""Cityscapes, fine annotations (Cordts et al., 2016): 19 classes, train and val; test has no labels."""

from __future__ import annotations

from pathlib import Path

from surrogate.errors import DataError
from surrogate_segmentation.data.layout import VOID, Layout, Listing, Pair, label_table, paired

CLASSES = (
    ("road", 7),
    ("sidewalk", 8),
    ("building", 11),
    ("wall", 12),
    ("fence", 13),
    ("pole", 17),
    ("traffic light", 19),
    ("traffic sign", 20),
    ("vegetation", 21),
    ("terrain", 22),
    ("sky", 23),
    ("person", 24),
    ("rider", 25),
    ("car", 26),
    ("truck", 27),
    ("bus", 28),
    ("train", 31),
    ("motorcycle", 32),
    ("bicycle", 33),
)
"""Name and raw id of the classes that are evaluated; the place in this table is the train id."""
RAW_IDS = 34
"""Raw ids run from 0 to 33; -1, a licence plate, is 255 in a file of 8 bits."""


def read(root: Path) -> Listing:
    """Lists the images of `leftImg8bit` with the `labelIds`, or else the `labelTrainIds`, of `gtFine`.

    Raises:
        DataError: there are no masks of either kind, or an image or a mask has no partner.
    """
    kind = next((kind for kind in ("labelIds", "labelTrainIds") if _labels(root, "train", kind)), None)
    if kind is None:
        raise DataError(
            f"{root / 'gtFine' / 'train'}: no *_gtFine_labelIds.png or *_gtFine_labelTrainIds.png in any city"
        )
    train_ids = {train_id: train_id for train_id in range(len(CLASSES))}
    raw_ids = dict.fromkeys(range(RAW_IDS), VOID) | {raw: train_id for train_id, (_, raw) in enumerate(CLASSES)}
    meaning = raw_ids if kind == "labelIds" else train_ids
    return Listing(
        title="Cityscapes",
        root=root,
        classes=tuple(name for name, _ in CLASSES),
        ignore_index=VOID,
        labels=label_table({**meaning, VOID: VOID}),
        size=(512, 1024),
        splits={split: _pairs(root, split, kind) for split in ("train", "val")},
        hint=f"these are not Cityscapes' {kind}: for other ids use the folder layout with a [label_map]",
    )


def _pairs(root: Path, split: str, kind: str) -> tuple[Pair, ...]:
    images = _by_city(root / "leftImg8bit" / split, "_leftImg8bit.png")
    return paired(images, _labels(root, split, kind), where=f"{root}, {split}")


def _labels(root: Path, split: str, kind: str) -> dict[str, Path]:
    return _by_city(root / "gtFine" / split, f"_gtFine_{kind}.png")


def _by_city(folder: Path, ending: str) -> dict[str, Path]:
    """Files by `<city>/<name without ending>`."""
    paths = sorted(folder.glob(f"*/[!.]*{ending}"))
    return {f"{path.parent.name}/{path.name.removesuffix(ending)}": path for path in paths}


CITYSCAPES = Layout(name="cityscapes", marks=("leftImg8bit/train", "gtFine/train"), read=read)
