"""A played pipeline in place of the real one, so that the command line is tested without torch."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import surrogate
from surrogate.progress import Progress

SPEC = "mIoU(macro, dataset, ignore=11, absent=skip)"
MESSAGES = ["train epoch 1/2: loss 0.5", "train epoch 2/2: loss 0.25 [val]"]
RESULTS: dict[str, dict[str, Any]] = {
    "train": {
        "run": "runs/a",
        "checkpoint": "runs/a/model",
        "epochs": 2,
        "metrics": {"miou": 0.5, "iou": {"sky": None, "[pole]": 0.25}},
        "spec": SPEC,
    },
    "collect": {
        "run": "runs/a",
        "store": "runs/a/stats",
        "rows": 97,
        "undefined": 3,
        "columns": ["tp", "fp"],
        "measure": "iou",
        "level": "sample",
        "regimes": {"model": 50, "noisy": 47},
    },
    "fit": {
        "run": "runs/a",
        "surrogate": "runs/a/surrogate.safetensors",
        "rows": 97,
        "columns": ["tp", "fp"],
        "measure": "iou",
        "level": "sample",
        "fidelity": {
            "analytic": {"spearman": 0.5, "by_regime": {"model": {"spearman": 0.75}}},
            "by_regime": {"model": {"spearman": 0.875, "kendall": 0.8, "r2": None, "mae": 0.0625, "n_samples": 20}},
            "spearman": 0.98765,
            "kendall": None,
            "r2": math.nan,
            "wrong_sign": 0.4,
            "n_samples": 20,
        },
        "report": {},
        "figures": ["runs/a/fit.png", "runs/a/rows.png"],
    },
    "finetune": {
        "run": "runs/my run",
        "loss": "surrogate",
        "checkpoint": "runs/my run/finetune-surrogate/model.safetensors",
        "before": {"value": 0.5, "value@batch": 0.25, "iou": {"sky": None, "road": 0.25}},
        "after": {"value": 0.625, "value@batch": 0.5, "iou": {"sky": 0.5, "road": 0.125}},
        "spec": SPEC,
        "figures": [],
        "losses": {
            "surrogate": {"before": {}, "after": {"value": 0.625}},
            "dice": {"before": {}, "after": {}},
        },
    },
    "evaluate": {
        "run": "runs/a",
        "model": "runs/a/model",
        "split": "test",
        "spec": SPEC,
        "metrics": {"miou": 0.5},
        "figures": [],
    },
}


@dataclass(frozen=True)
class Request:
    app: str | None = None
    run: Path | None = None
    recipe: str | None = None
    overrides: tuple[tuple[str, Any], ...] = ()


class Played:
    """A pipeline that records what it is asked for, and ends each stage as the test wants."""

    Request = Request
    results = RESULTS

    def __init__(self) -> None:
        self.asked: list[tuple[str, Request, dict[str, Any]]] = []
        self.error: BaseException | None = None
        self.closed = False
        self.ok = True

    def module(self) -> ModuleType:
        module = ModuleType("surrogate.pipeline")
        stages = {name: self._stage(name) for name in RESULTS}
        for name, value in {**stages, "Request": Request, **self._looks()}.items():
            setattr(module, name, value)
        return module

    def _stage(self, name: str) -> Any:
        def stage(request: Request, **keywords: Any) -> Any:
            self.asked.append((name, request, keywords))
            try:
                print("a model that prints")
                yield Progress("train epoch 1/2", 1, 2, values={"loss": 0.75})
                for epoch, message in enumerate(MESSAGES, 1):
                    yield Progress("train", epoch, 2, message=message)
                if self.error is not None:
                    raise self.error
            finally:
                self.closed = True
            return RESULTS[name]

        return stage

    def _looks(self) -> dict[str, Any]:
        plugins = [
            {"app": "toy", "name": "step", "package": "surrogate-loss", "version": "0.1.0", "error": None},
            {"app": "toy", "name": "bad", "package": "bad", "version": "2", "error": "ImportError: no Foo"},
        ]
        missing = [{"what": "matplotlib", "why": "no figures", "fix": "pip install 'surrogate-loss[plot]'"}]
        return {
            "apps": lambda: plugins,
            "measures": lambda app: [row for row in plugins if app in (None, row["app"])],
            "inspect": lambda path: {
                "kind": "store",
                "path": str(path),
                "measure": {"name": "iou", "version": 1},
            },
            "doctor": lambda: {
                "versions": {"torch": "2.13.0"},
                "device": "cpu",
                "missing": [] if self.ok else missing,
                "ok": self.ok,
            },
        }


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> Played:
    played = Played()
    module = played.module()
    monkeypatch.setitem(sys.modules, "surrogate.pipeline", module)
    monkeypatch.setattr(surrogate, "pipeline", module, raising=False)
    for name in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "SURROGATE_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    return played
