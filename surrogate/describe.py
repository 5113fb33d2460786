"""What is installed, what a file holds, and whether this machine is ready: everything that is looked at and not run."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import torch

from surrogate import approximator, plugins, probe
from surrogate.errors import DataError, UsageError, nearest
from surrogate.protocols import Level
from surrogate.provenance import PACKAGES, versions
from surrogate.recipe import read_toml
from surrogate.rundir import RunDir, read_json
from surrogate.store import StatsStore

_EXTRAS = (("matplotlib", "figures", "pip install 'surrogate-loss[plot]'"),)


def apps() -> list[dict[str, Any]]:
    """Installed applications: name, package, version, and the error of one that does not load."""
    return [_entry(p, found, keys=()) for p, found in _probed(plugins.listed(plugins.APPS))]


def measures(app: str | None = None) -> list[dict[str, Any]]:
    """Installed measures of one app or of all: app, name, package, version, level, and the error of one that fails."""
    listed = plugins.listed(plugins.MEASURES + app if app else plugins.MEASURES)
    if app and not listed:
        known = {plugin.name for plugin in plugins.listed(plugins.APPS)}
        if app not in known:
            raise UsageError(f"--app {app}: no such app; {nearest(app, known)}")
    return [
        {"app": p.group.removeprefix(plugins.MEASURES), **_entry(p, found, keys=("level",))}
        for p, found in _probed(listed)
    ]


def inspect(path: Path) -> dict[str, Any]:
    """What a run folder, a store, a shard or a surrogate's file holds; raises `DataError` where it is none of them."""
    if (path / "recipe.toml").is_file():
        run = RunDir(path)
        return _run(run) if run.finetuning_of() is None else _finetuning(run)
    if (path / "manifest.json").is_file() or path.name == "manifest.json" or path.suffix == ".h5":
        return _store(path if path.is_dir() else path.parent, shard=path.name if path.suffix == ".h5" else None)
    if path.suffix == ".safetensors":
        return {"kind": "surrogate", **approximator.read_card(path).model_dump(mode="json")}
    if not path.exists():
        raise DataError(f"{path}: no such file or folder; expected a run folder, a store or a surrogate.safetensors")
    raise DataError(f"{path}: not a run folder, a store, a shard or a surrogate; nothing to inspect")


def doctor() -> dict[str, Any]:
    """Versions, device, and what is missing with the way to mend it; `ok` when every installed app loads."""
    missing = [
        {"what": package, "why": why, "fix": fix}
        for package, why, fix in _EXTRAS
        if versions((package,))[package] is None
    ]
    broken = [entry for entry in apps() + measures() if entry["error"]]
    missing += [{"what": entry["name"], **_why_and_fix(entry)} for entry in broken]
    cuda = torch.cuda.is_available()
    return {
        "versions": {
            "python": platform.python_version(),
            **versions((*PACKAGES, "typer", "rich", "matplotlib")),
        },
        "device": f"cuda: {torch.cuda.get_device_name()}" if cuda else f"cpu: {torch.get_num_threads()} threads",
        "missing": missing,
        "ok": not broken,
    }


def _why_and_fix(entry: dict[str, Any]) -> dict[str, str]:
    """The two halves of an error: what is wrong; what to do."""
    why, _, fix = entry["error"].rpartition("; ")
    return {"why": why, "fix": fix} if why else {"why": fix, "fix": f"reinstall or uninstall {entry['package']}"}


def _probed(listed: list[plugins.Plugin]) -> Iterator[tuple[plugins.Plugin, dict[str, Any]]]:
    """Each plugin with what the probe, a process of its own, says of it; this process imports none of them."""
    return zip(listed, probe.outcomes(listed), strict=True)


def _entry(plugin: plugins.Plugin, found: dict[str, Any], *, keys: tuple[str, ...]) -> dict[str, Any]:
    entry = {"name": plugin.name, "package": plugin.package, "version": plugin.package_version}
    return {**entry, **{key: found.get(key) for key in keys}, "error": plugins.clash(plugin) or found["error"]}


def _run(run: RunDir) -> dict[str, Any]:
    results = run.results()
    on_val = [row for loss, result in sorted(results.items()) for row in _on_val(loss, result)]
    return {
        "kind": "run",
        "run": str(run.root),
        "trained": (run.model / "train.json").exists(),
        "collected": StatsStore.is_complete(run.stats),
        "fitted": run.fit_report.exists(),
        "finetuned": sorted(results),
        "fidelity": _fidelity(read_json(run.fit_report)) if run.fit_report.exists() else {},
        **({"on_val": on_val} if on_val else {}),
        "recipe": read_toml(run.recipe),
    }


def _fidelity(report: dict[str, Any]) -> dict[str, Any]:
    return {name: report.get("fidelity", {}).get(name) for name in ("spearman", "wrong_sign")}


def _on_val(loss: str, result: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The run's own measure before and after a finetuning; it is the one with its level in its name."""
    before, after = (result.get(when, {}).get("val", {}) for when in ("before", "after"))
    for name in after:
        if name.rpartition("@")[2] in get_args(Level):
            yield {"loss": loss, "metric": name, "before": before.get(name), "after": after[name]}


def _finetuning(folder: RunDir) -> dict[str, Any]:
    result = folder.root / "result.json"
    return {
        "kind": "finetuning",
        "run": str(folder.finetuning_of()),
        "recipe": read_toml(folder.recipe),
        "finished": result.exists(),
        "result": read_json(result) if result.exists() else None,
    }


def _store(folder: Path, *, shard: str | None) -> dict[str, Any]:
    store = StatsStore.open(folder)
    shards = [entry.model_dump(mode="json") for entry in store.manifest.shards]
    if shard is not None:
        shards = [entry for entry in shards if entry["file"] == shard]
        if not shards:
            raise DataError(f"{folder / shard}: not listed in {folder / 'manifest.json'}; a leftover, delete it")
    spec = store.spec
    return {
        "kind": "store",
        "app": spec.app,
        "measure": spec.measure,
        "version": spec.measure_version,
        "level": spec.level,
        "columns": list(spec.columns),
        "regimes": list(spec.regimes),
        "complete": store.complete,
        "rows": store.rows,
        "undefined": store.undefined,
        "shards": shards,
    }
