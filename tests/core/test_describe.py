"""What is told of a run folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from surrogate import describe


def written(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def test_a_run_tells_how_good_its_fit_and_its_finetunings_are(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text('app = "toy"\n', encoding="utf-8")
    found = describe.inspect(tmp_path)
    assert (found["fitted"], found["finetuned"], found["fidelity"], "on_val" in found) == (False, [], {}, False)

    written(tmp_path / "fit.json", {"fidelity": {"spearman": 0.98, "wrong_sign": None, "r2": 0.9}})
    for loss, after in (("surrogate", 0.75), ("dice", None)):
        scores = {"before": {"f1": 1.0, "f1@batch": 0.5}, "after": {"f1": 1.0, "f1@batch": after}}
        sides = {when: {"f1@batch": 0.0, "val": values} for when, values in scores.items()}
        written(tmp_path / f"finetune-{loss}" / "result.json", sides)
    found = describe.inspect(tmp_path)
    assert found["fidelity"] == {"spearman": 0.98, "wrong_sign": None}
    assert found["on_val"] == [
        {"loss": "dice", "metric": "f1@batch", "before": 0.5, "after": None},
        {"loss": "surrogate", "metric": "f1@batch", "before": 0.5, "after": 0.75},
    ]
    assert list(found)[-1] == "recipe", "which is long"
