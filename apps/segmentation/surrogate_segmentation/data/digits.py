"""The embedded data set: handwritten digits, thin lines and dots over photographs, drawn when asked for.

Digits and photographs come with scikit-learn, so nothing is downloaded. It is made to be hard where IoU is:
classes are far from balanced, objects are small or thin and overlap, and some digits are of no class.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from surrogate.errors import UsageError
from surrogate_segmentation.data.layout import VOID

CLASSES = ("background", "zero", "one", "three", "seven", "line", "dot")
IGNORE_INDEX = VOID
SIZE = (96, 96)
COUNTS = {"train": 320, "val": 96, "test": 96}

LABEL_OF_DIGIT = {0: 1, 1: 2, 3: 3, 7: 4}
DIGIT_CHANCES = (0.28, 0.20, 0.06, 0.14, 0.04, 0.04, 0.06, 0.09, 0.05, 0.04)
"""How often each digit is drawn; those without a label are background that looks like an object."""
LINE, DOT = 5, 6
FIFTHS = {"train": (0, 2, 4), "val": (1,), "test": (3,)}
"""Of the photographs, from left to right, and of the digits, by turns: a split draws from its own alone."""

Pixels = NDArray[np.uint8]
Floats = NDArray[np.floating]


class DigitScenes:
    """The scenes of one split at `size` (H, W): a `Source`. A scene depends on split, index and size alone.

    Raises:
        UsageError: a side is under 32 pixels, where a dot would vanish.
    """

    def __init__(self, split: str, size: tuple[int, int]) -> None:
        if min(size) < 32:
            raise UsageError(f"size {size[0]}x{size[1]} for the data set 'digits'; expected at least 32x32")
        self._split = split
        self._size = size
        self._strokes = _strokes(split)
        self._photos = _photos(split)

    def __len__(self) -> int:
        return COUNTS[self._split]

    def name(self, index: int) -> str:
        return f"{self._split}/{index:03d}"

    def read(self, index: int) -> tuple[Pixels, Pixels]:
        """`(H, W, 3)` uint8 RGB and `(H, W)` uint8 label ids."""
        chance = np.random.default_rng([list(COUNTS).index(self._split), index])
        scene = _Scene(_background(self._photos, self._size, chance), chance)
        for digit in chance.choice(10, size=chance.integers(3, 7), p=DIGIT_CHANCES).tolist():
            strokes = self._strokes[digit]
            scene.draw_digit(digit, strokes[chance.integers(len(strokes))])
        for _ in range(chance.integers(1, 4)):
            scene.draw_line()
        for _ in range(chance.integers(1, 7)):
            scene.draw_dot()
        return scene.finished()


class _Scene:
    """A picture being drawn, and its labels. Lengths are in pixels of a scene of the usual size."""

    def __init__(self, background: Floats, chance: np.random.Generator) -> None:
        self._image = background
        self._height, self._width = background.shape[:2]
        self._label = np.zeros((self._height, self._width), dtype=np.uint8)
        self._chance = chance
        self._unit = min(self._height, self._width) / min(SIZE)

    def draw_digit(self, digit: int, strokes: Floats) -> None:
        """Strokes are `(8, 8)` in [0, 1]. One pixel around a digit that has a label is void."""
        side = round(self._chance.uniform(18, 40) * self._unit)
        glyph = Image.fromarray(strokes).resize((side, side), Image.Resampling.BICUBIC)
        glyph = glyph.rotate(self._chance.uniform(-20, 20), Image.Resampling.BILINEAR)
        ink = np.zeros(self._label.shape, dtype=np.float32)
        top = self._chance.integers(self._height - side + 1)
        left = self._chance.integers(self._width - side + 1)
        ink[top : top + side, left : left + side] = np.array(glyph)
        inside = ink > 0.5
        # A digit has a hue of its own, but those next to it on the wheel come close: shape has to decide.
        self._paint(np.clip(3 * ink - 1, 0, 1), self._hue(digit / 10), least=0.35)
        if digit in LABEL_OF_DIGIT:
            self._label[_grown(inside) & ~inside] = VOID
        self._label[inside] = LABEL_OF_DIGIT.get(digit, 0)

    def draw_line(self) -> None:
        """A thin curve from one place to another, dark or light."""
        ends = self._chance.uniform(0, 1, size=(3, 2)) * (self._width, self._height)
        t = np.linspace(0, 1, 33)[:, None]
        curve = (1 - t) ** 2 * ends[0] + 2 * t * (1 - t) * ends[1] + t**2 * ends[2]
        width = max(1, round(self._chance.integers(1, 3) * self._unit))
        canvas = Image.new("1", (self._width, self._height))
        ImageDraw.Draw(canvas).line([tuple(point) for point in curve.tolist()], fill=1, width=width)
        inside = np.array(canvas)
        self._paint(inside.astype(np.float32), np.full(3, self._chance.choice([20, 235])), least=0.6)
        self._label[inside] = LINE

    def draw_dot(self) -> None:
        """A disc of a few pixels."""
        radius = self._chance.uniform(2.0, 3.5) * self._unit
        y = self._chance.uniform(radius, self._height - radius)
        x = self._chance.uniform(radius, self._width - radius)
        rows, columns = np.indices(self._label.shape)
        inside = (rows - y) ** 2 + (columns - x) ** 2 <= radius**2
        self._paint(inside.astype(np.float32), self._hue(0.5), least=0.6)
        self._label[inside] = DOT

    def finished(self) -> tuple[Pixels, Pixels]:
        """Image with the noise of a camera, and labels."""
        noisy = self._image + self._chance.normal(0, 6, size=self._image.shape)
        return np.clip(noisy, 0, 255).astype(np.uint8), self._label

    def _hue(self, turn: float) -> Floats:
        """RGB of a colour near that place on the wheel, in turns."""
        turn += self._chance.normal(0, 0.05)
        return 128 + 110 * np.cos(2 * np.pi * (turn + np.array([0, 1, 2]) / 3))

    def _paint(self, ink: Floats, colour: Floats, *, least: float) -> None:
        """Lays a colour, `(3,)` in [0, 255], over the picture where `(H, W)` ink is."""
        share = self._chance.uniform(least, 0.9) * ink[..., None]
        self._image = (1 - share) * self._image + share * colour


def _background(photos: tuple[Image.Image, ...], size: tuple[int, int], chance: np.random.Generator) -> Floats:
    """`(H, W, 3)` in [0, 255], a part of one of the photographs."""
    height, width = size
    photo = photos[chance.integers(len(photos))]
    zoom = min(photo.height / height, photo.width / width) * chance.uniform(0.5, 1.0)
    left, top = chance.uniform(0, photo.width - zoom * width), chance.uniform(0, photo.height - zoom * height)
    box = (left, top, left + zoom * width, top + zoom * height)
    return np.array(photo.resize((width, height), Image.Resampling.BILINEAR, box=box), dtype=np.float32)


def _grown(inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """A mask and the four neighbours of each of its pixels."""
    grown = inside.copy()
    grown[1:] |= inside[:-1]
    grown[:-1] |= inside[1:]
    grown[:, 1:] |= inside[:, :-1]
    grown[:, :-1] |= inside[:, 1:]
    return grown


def _strokes(split: str) -> tuple[Floats, ...]:
    """For each digit the `(n, 8, 8)` samples, in [0, 1], that belong to a split."""
    from sklearn.datasets import load_digits  # takes a second to import

    digits = load_digits()
    fifth = np.arange(len(digits.target)) % 5
    mine = np.isin(fifth, FIFTHS[split])
    return tuple((digits.images[mine & (digits.target == digit)] / 16).astype(np.float32) for digit in range(10))


def _photos(split: str) -> tuple[Image.Image, ...]:
    """The upright fifths of the photographs that belong to a split."""
    from sklearn.datasets import load_sample_images

    photos = [Image.fromarray(photo) for photo in load_sample_images().images]
    edges = [(photo, photo.width * i // 5, photo.width * (i + 1) // 5) for photo in photos for i in FIFTHS[split]]
    return tuple(photo.crop((left, 0, right, photo.height)) for photo, left, right in edges)
