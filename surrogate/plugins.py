"""Apps and measures by entry point: looked up by name, loaded one at a time. The built-in ones arrive the same way.

[project.entry-points."surrogate.apps"]
segmentation = "surrogate_segmentation:app"             # an `App`

[project.entry-points."surrogate.measures.segmentation"]
iou = "surrogate_segmentation.measures:iou"             # a `MeasureFactory`
"""

from __future__ import annotations

import importlib.util
import inspect
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, get_args

from surrogate.additive import sums_of
from surrogate.errors import UsageError, nearest
from surrogate.protocols import App, Level, Measure

APPS = "surrogate.apps"
MEASURES = "surrogate.measures."


@dataclass(frozen=True, slots=True)
class Plugin:
    """One entry point, not loaded."""

    name: str
    group: str
    package: str
    package_version: str
    target: str


def listed(group: str) -> list[Plugin]:
    """What is installed under a group, or under all groups that begin with it when it ends in a dot; by name.

    Imports nothing.
    """
    groups = [g for g in entry_points().groups if g == group or (group.endswith(".") and g.startswith(group))]
    found = [_plugin(ep) for g in groups for ep in entry_points(group=g)]
    return sorted(found, key=lambda p: (p.group, p.name, p.package))


def load_app(name: str) -> App:
    """The app of that name; raises `UsageError` when there is none, or two, or it does not load."""
    app: App = _named(APPS, name, kind="app")
    return app


def load_measure(app: str, name: str, *, facts: Mapping[str, Any], options: Mapping[str, Any]) -> Measure:
    """Builds a measure of an app from the facts of the task and the settings of the recipe.

    Raises:
        UsageError: no such measure, or two of that name, or it does not load, or it does not take an option.
    """
    factory = _named(MEASURES + app, name, kind=f"measure of app {app!r}")
    if not callable(factory):
        raise UsageError(f"measure {name!r} is a {type(factory).__name__}; expected a function that makes a Measure")
    parameters = inspect.signature(factory).parameters
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for option in options:
        if option not in parameters and not takes_all:
            known = [p for p in parameters if p not in facts]
            raise UsageError(f"unknown recipe key 'measure.{option}' for measure {name!r}; {nearest(option, known)}")
    keywords = {**asked(factory, facts), **options}
    for parameter in parameters.values():
        named = parameter.kind in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        if named and parameter.default is parameter.empty and parameter.name not in keywords:
            raise UsageError(
                f"measure {name!r} asks for {parameter.name!r}, which app {app!r} does not tell (it tells "
                f"{', '.join(sorted(facts)) or 'nothing'}); set it in the recipe as measure.{parameter.name}"
            )
    try:
        measure = factory(**keywords)
    except (TypeError, ValueError, AttributeError) as error:
        given = ", ".join(f"{key}={value!r}" for key, value in options.items()) or "its defaults"
        raise UsageError(
            f"measure {name!r} cannot be made with {given} "
            f"({type(error).__name__}: {' '.join(str(error).split())}); give its settings the types that it expects"
        ) from error
    if not isinstance(measure, Measure):
        raise UsageError(f"measure {name!r} gave a {type(measure).__name__}; expected a surrogate.protocols.Measure")
    if measure.level not in get_args(Level):
        raise UsageError(f"measure {name!r}: level {measure.level!r}; {nearest(str(measure.level), get_args(Level))}")
    if measure.level == "dataset":
        sums_of(measure)
    return measure


def asked(function: Callable[..., Any], facts: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the facts that a function has a parameter for.

    >>> asked(lambda *, size: size, {"size": 3, "color": "red"})
    {'size': 3}
    """
    parameters = inspect.signature(function).parameters
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    return {key: value for key, value in facts.items() if takes_all or key in parameters}


def app_of(measure: str) -> str:
    """The app that has a measure of that name; raises `UsageError` when none has, or several."""
    apps = sorted({p.group.removeprefix(MEASURES) for p in listed(MEASURES) if p.name == measure})
    if not apps:
        near = nearest(measure, {p.name for p in listed(MEASURES)})
        raise UsageError(f"no installed measure is called {measure!r}; {near} (a new package: pip install -e it first)")
    if len(apps) > 1:
        raise UsageError(f"apps {' and '.join(apps)} have a measure called {measure!r}; add --app {apps[0]}")
    return apps[0]


def clash(plugin: Plugin) -> str | None:
    """What is wrong where another package brings a plugin of the same group and name, naming all; else None."""
    same = [other.package for other in listed(plugin.group) if other.name == plugin.name]
    return f"two packages bring it: {' and '.join(same)}; uninstall one" if len(same) > 1 else None


def lacking(thing: object, protocol: type) -> list[str]:
    """The members of a protocol that a thing does not have, sorted."""
    members = {name for name in (*vars(protocol), *protocol.__annotations__) if not name.startswith("_")}
    return sorted(name for name in members if not hasattr(thing, name))


def load(plugin: Plugin) -> Any:
    """What an entry point names; raises `UsageError`, naming the package, when it does not load or is no whole app."""
    loaded = _loaded(plugin)
    if plugin.group == APPS and (missing := lacking(loaded, App)):
        raise UsageError(
            f"{plugin.target} of package {plugin.package} is no app: it has no {', '.join(missing)}; derive its class "
            "from surrogate.protocols.App for the defaults, and write the rest"
        )
    return loaded


def _loaded(plugin: Plugin) -> Any:
    try:
        return EntryPoint(plugin.name, plugin.target, plugin.group).load()
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0]
        raise UsageError(
            f"{plugin.target} of package {plugin.package} does not load ({type(error).__name__}: {reason}); "
            f"{_to_do(plugin, error)}"
        ) from error


def _to_do(plugin: Plugin, error: Exception) -> str:
    line = _own_line(plugin, error)
    if not line:
        return f"reinstall or uninstall {plugin.package}"
    return f"mend {line}" + (f", or install {error.name}" if isinstance(error, ModuleNotFoundError) else "")


def _own_line(plugin: Plugin, error: Exception) -> str:
    """The last line of the plugin's own files that an error came through; empty where module or object is missing."""
    places = [(frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    if isinstance(error, SyntaxError):
        places.append((error.filename or "", error.lineno or 0))
    found = importlib.util.find_spec(plugin.target.partition(":")[0].partition(".")[0])
    if found is None:
        return ""
    folders = [Path(folder) for folder in found.submodule_search_locations or ()]
    own = [f"{f}, line {n}" for f, n in places if f == found.origin or any(d in Path(f).parents for d in folders)]
    return own[-1] if own else ""


def _named(group: str, name: str, *, kind: str) -> Any:
    found = [plugin for plugin in listed(group) if plugin.name == name]
    if not found:
        raise UsageError(f"no {kind} is called {name!r}; {nearest(name, {p.name for p in listed(group)})}")
    if len(found) > 1:
        owners = " and ".join(plugin.package for plugin in found)
        raise UsageError(f"two packages bring a {kind} called {name!r}: {owners}; uninstall one")
    return load(found[0])


def _plugin(ep: EntryPoint) -> Plugin:
    package = ep.dist.name if ep.dist else "unknown"
    version = ep.dist.version if ep.dist else "unknown"
    return Plugin(ep.name, ep.group, package, version, ep.value)
