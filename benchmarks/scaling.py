"""How time and memory grow: exponents of cost ~ size^k, and what stays flat."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks import collect, fit
from benchmarks.harness import Case, slope, sweep, timed
from benchmarks.memory import process_peak, tensor_peak
from benchmarks.rows import Row, Settings
from benchmarks.scene import Scene, learned_loss, through
from benchmarks.store import COLUMNS, random_rows, write

SUBJECT = "scaling"
_REPEATS = 5
_LONGEST = 12.0
"""Seconds of one run beyond which a sweep does not go on to ten times the size."""


def run(settings: Settings) -> Iterator[Row]:
    """Loss against pixels, classes and batch; fit against rows; collect and reading a store against their length."""
    yield from _loss(settings)
    yield from _fit(settings)
    yield from _collect(settings)
    yield from _read(settings)


def _loss(settings: Settings) -> Iterator[Row]:
    base = Scene(1, 21, 64, 64) if not settings.tiny else Scene(1, 3, 8, 8)
    sides, classes, batches = (8, 16) if settings.tiny else (64, 128, 256, 512), (2, 8, 32, 128), (1, 2, 4, 8)
    sweeps: dict[str, list[tuple[int, Scene]]] = {
        "pixels": [(side * side, replace(base, height=side, width=side)) for side in sides],
        "classes": [(count, replace(base, classes=count)) for count in classes],
        "batch": [(count, replace(base, batch=count)) for count in batches],
    }
    for against, scenes in sweeps.items():
        sizes, times, peaks = [], [], []
        for size, scene in scenes:
            case = through(learned_loss(scene.classes, settings.device), *scene.tensors(settings.device))
            sizes.append(size)
            times.append(_best(case))
            case.reset()
            peaks.append(tensor_peak(case.run, settings.device))
        yield _exponent(f"loss, time against {against}", sizes, times, str(scenes[0][1]))
        yield _exponent(f"loss, memory against {against}", sizes, peaks, str(scenes[0][1]))


def _fit(settings: Settings) -> Iterator[Row]:
    """Ends where an epoch of ten times as many rows would take too long."""
    sizes, times = [], []
    for count in sweep(1_000 if settings.tiny else 10_000, 10_000 if settings.tiny else 10_000_000, 10):
        with tempfile.TemporaryDirectory() as folder:
            stage, fitted = fit.epochs(
                random_rows(count, len(fit.COLUMNS)),
                Path(folder),
                device=settings.device,
                slope_weight=0.0,
                sign_weight=0.0,
            )
            sizes.append(fitted)
            times.append(_best(Case(lambda stage=stage: next(stage)), repeats=2))
        if 10 * times[-1] > _LONGEST:
            break
    yield _exponent("fit, time of an epoch against rows", sizes, times, f"batch 1024, up to {sizes[-1]} rows")


def _collect(settings: Settings) -> Iterator[Row]:
    counts = (2, 4) if settings.tiny else (32, 64, 128, 256)
    side, width = (16, 2) if settings.tiny else (64, 8)
    cases = [
        collect.Collection.of(collect.Images(count, 5, side, side), width=width, device=settings.device).collecting(
            "model"
        )
        for count in counts
    ]
    times = [_best(case, repeats=2) for case in cases]
    case = f"UNet width {width}, 3x{side}x{side}"
    yield _exponent("collect, time against images", counts, times, case)
    yield _flatness("collect, memory", [(count, one.run) for count, one in zip(counts, cases, strict=True)], case)


def _read(settings: Settings) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as folder:
        calls = []
        for count in (1_000, 2_000) if settings.tiny else (200_000, 800_000, 3_200_000):
            store = write(Path(folder, str(count)), random_rows(count, len(COLUMNS)), COLUMNS)
            calls.append((count, lambda store=store: [len(part.value) for part in store.shards()]))
        yield _flatness("reading a store shard by shard, memory", calls, "rows of six statistics")


def _best(case: Case, *, repeats: int = _REPEATS) -> float:
    """The shortest of some runs: what a size costs when nothing else happens."""
    timed(case)
    return min(timed(case) for _ in range(repeats))


def _exponent(what: str, sizes: Sequence[float], costs: Sequence[float], case: str) -> Row:
    value = slope(list(sizes), list(costs))
    points = tuple(zip(map(float, sizes), map(float, costs), strict=True))
    return Row(SUBJECT, what, case, unit="exponent", value=value, n=len(sizes), points=points)


def _flatness(what: str, calls: Sequence[tuple[int, Callable[[], object]]], case: str) -> Row:
    """How much higher the peak of the process is at the longest than at the shortest."""
    for _, call in calls[:1]:
        call()  # what a first run loads stays
    peaks = [(float(count), process_peak(call)) for count, call in calls]
    known = tuple((count, float(peak)) for count, peak in peaks if peak is not None)
    if len(known) < len(peaks):
        return Row(SUBJECT, what, case, note="the peak of a process is read from /proc, which only Linux has")
    grown = (known[-1][1] - known[0][1]) / 2**20
    return Row(SUBJECT, what, case, unit="MiB more at the longest", value=grown, n=len(known), points=known)
