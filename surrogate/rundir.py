"""Which file each stage reads and writes, under which recipe, and how far a run is."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from surrogate.atomic import write_atomic
from surrogate.errors import DataError, UsageError
from surrogate.recipe import Recipe, differing_keys, to_toml


@dataclass(frozen=True, slots=True)
class RunDir:
    """One run folder.

    runs/<name>/recipe.toml  data.json  provenance.json  model/  stats/  moves/  surrogate.safetensors  fit.json
                finetune-<loss>/result.json
    """

    root: Path

    def finetuning_of(self) -> Path | None:
        """The run whose finetuning this folder holds, where it is no run of its own: it has a recipe too."""
        inside = self.root.name.startswith("finetune-") and (self.root.parent / "recipe.toml").is_file()
        return self.root.parent if inside else None

    @property
    def recipe(self) -> Path:
        return self.root / "recipe.toml"

    @property
    def provenance(self) -> Path:
        return self.root / "provenance.json"

    @property
    def data(self) -> Path:
        """Which samples the run is of."""
        return self.root / "data.json"

    @property
    def model(self) -> Path:
        """Folder of the baseline model's training."""
        return self.root / "model"

    @property
    def stats(self) -> Path:
        return self.root / "stats"

    @property
    def moves(self) -> Path:
        return self.root / "moves"

    @property
    def surrogate(self) -> Path:
        return self.root / "surrogate.safetensors"

    @property
    def fit_state(self) -> Path:
        """Checkpoint of a fit under way; gone when it is done."""
        return self.root / "fit-state.safetensors"

    @property
    def fit_report(self) -> Path:
        return self.root / "fit.json"

    def finetune(self, loss: str) -> Path:
        """Folder of the finetuning through that loss."""
        return self.root / f"finetune-{loss}"

    def result(self, loss: str) -> Path:
        """What that finetuning has come to; written last, and gone with its folder."""
        return self.finetune(loss) / "result.json"

    def results(self) -> dict[str, dict[str, Any]]:
        """Before and after of every finished finetuning, by loss."""
        found = sorted(self.root.glob("finetune-*/result.json"))
        return {path.parent.name.removeprefix("finetune-"): read_json(path) for path in found}


def newest(parent: Path = Path("runs")) -> RunDir:
    """The run folder below `parent` whose recipe was written last; raises `UsageError` when there is none."""
    recipes = sorted(parent.glob("*/recipe.toml"), key=lambda path: path.stat().st_mtime_ns)
    if not recipes:
        raise UsageError(
            f"no run in {parent}/; make one with `surrogate fit --app segmentation`, or name one with --run"
        )
    return RunDir(recipes[-1].parent)


def claim(path: Path, recipe: Recipe, before: Recipe | None, *, fix: str) -> None:
    """Writes the recipe a folder is for, or, where it already has one (`before`), insists that it is the same.

    Raises:
        UsageError: the folder belongs to another recipe; the differing keys are named, and the way out, `fix`.
    """
    if before is None:
        write_atomic(path, to_toml(recipe).encode())
        return
    differing = differing_keys(before, recipe)
    if differing:
        raise UsageError(f"{path.parent}: was made with another recipe, differing in {', '.join(differing)}; {fix}")


def claim_data(path: Path, splits: dict[str, Any], *, fix: str) -> None:
    """Writes which samples a folder is of, or insists that they are the same; raises `DataError` where they are not."""
    before = read_json(path) if path.exists() else splits
    for name, split in splits.items():
        if before.get(name) != split:
            then, now = before.get(name, {}).get("samples"), split["samples"]
            what = f"{then} samples in {name}, now {now}" if then != now else f"other samples in {name}, as many as now"
            raise DataError(f"{path.parent}: was made with {what}; bring that data back, or {fix}")
    write_json(path, splits)


def claim_surrogate(path: Path, surrogate: Path, *, fix: str) -> None:
    """Writes which surrogate a folder's finetuning goes through, or insists; raises `UsageError` at another one."""
    digest = {"sha256": hashlib.sha256(surrogate.read_bytes()).hexdigest()}
    if path.exists() and read_json(path) != digest:
        raise UsageError(f"{path.parent}: was trained through another surrogate than {surrogate} is now; {fix}")
    write_json(path, digest)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes JSON for people and programs: indented, keys sorted, atomically; NaN is refused.

    A file that says the same already is left alone.
    """
    data = (json.dumps(content, indent=2, sort_keys=True, allow_nan=False) + "\n").encode()
    if not path.is_file() or path.read_bytes() != data:
        write_atomic(path, data)


def read_json(path: Path) -> dict[str, Any]:
    """Reads what `write_json` wrote; raises `DataError` when it is missing or damaged."""
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: unreadable ({error}); delete it and run the command again") from None
    return content
