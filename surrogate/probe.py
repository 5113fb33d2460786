"""Plugins loaded in a process of their own, so that listing them imports nothing and a broken one breaks nothing.

Run as `python -m surrogate.probe`, it reads plugins on stdin, a JSON object a line, and answers with a line for each.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from typing import Any

from surrogate import plugins
from surrogate.errors import SurrogateError
from surrogate.recipe import build

_PATIENCE = 120
"""Seconds for all that is still to be loaded."""


def outcomes(listed: list[plugins.Plugin]) -> list[dict[str, Any]]:
    """For each plugin `{"error": ..., "level": ...}`: why it does not load, or else, for a measure, its level.

    The level is that of the measure as its app's default recipe makes it.
    """
    found: list[dict[str, Any]] = []
    while len(found) < len(listed):
        answers, ended = _ask(listed[len(found) :])
        found += answers
        if len(found) < len(listed):  # the next one took the process along; go on behind it
            found.append({"error": f"loading it ends Python ({ended}); uninstall {listed[len(found)].package}"})
    return found


def _ask(listed: list[plugins.Plugin]) -> tuple[list[dict[str, Any]], str]:
    """The answers that came, and how the process ended."""
    command = [sys.executable, "-m", __name__]
    questions = "".join(json.dumps(dataclasses.asdict(plugin)) + "\n" for plugin in listed)
    path = os.pathsep.join(filter(None, sys.path))
    try:
        done = subprocess.run(
            command,
            input=questions.encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_PATIENCE,
            env={**os.environ, "PYTHONPATH": path},
            check=False,
        )
        answered, ended = done.stdout, f"exit code {done.returncode}"
    except subprocess.TimeoutExpired as late:
        answered, ended = late.stdout or b"", f"no answer in {_PATIENCE} s"
    return [json.loads(line) for line in answered.splitlines()], ended


def _answer(plugin: plugins.Plugin) -> dict[str, Any]:
    try:
        plugins.load(plugin)
        return {"error": None, "level": _level(plugin)}
    except SurrogateError as error:
        return {"error": str(error)}
    except (Exception, SystemExit) as error:
        told = f"{plugin.target} raised {type(error).__name__}: {' '.join(str(error).split())}"
        return {"error": f"{told}; mend or uninstall {plugin.package}"}


def _level(plugin: plugins.Plugin) -> str | None:
    """Of a measure; None of an app, and where two packages bring a measure of that name."""
    if plugin.group == plugins.APPS or plugins.clash(plugin):
        return None
    name = plugin.group.removeprefix(plugins.MEASURES)
    app = plugins.load_app(name)
    recipe = build(app.recipe, {"app": name, "measure": {"name": plugin.name}}, where="recipe")
    return plugins.load_measure(name, plugin.name, facts=app.open(recipe).facts, options={}).level


def _main() -> None:
    """What a plugin writes goes nowhere: stdout is for the answers."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        answers.write(json.dumps(_answer(plugins.Plugin(**json.loads(line)))) + "\n")
        answers.flush()


if __name__ == "__main__":
    _main()
