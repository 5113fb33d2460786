"""Writes docs/settings.md from the recipes' own classes: `python docs/settings.py > docs/settings.md`."""

from __future__ import annotations

import ast
import inspect
import itertools
import textwrap
import types
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from surrogate import plugins
from surrogate.recipe import Recipe, Section
from surrogate_segmentation.recipe import SegmentationRecipe
from surrogate_tabular.recipe import TabularRecipe
from surrogate_toy.recipe import ToyRecipe

Classes = dict[str, type[BaseModel]]

APPS: Classes = {"segmentation": SegmentationRecipe, "tabular": TabularRecipe, "toy": ToyRecipe}

_HEAD = """# Every setting

Written by `python docs/settings.py > docs/settings.md`; do not edit.

A recipe is TOML with the tables below (`--recipe FILE.toml`). `--set TABLE.KEY=VALUE` changes one setting, and the
common options (`--epochs`, `--lr`, `--size`, `--measure`, ...) are short for some. A run folder's `recipe.toml` holds
all of them, as they were. Here are the defaults of each app; the recipes that come with it (`--recipe NAME`) change
some. `-`: the app has no such setting. One that it does not know is an error that names the nearest.
"""

_WORDS = {int: "integer", float: "number", str: "text", bool: "`true`, `false`"}
_BOUNDS = {"gt": "> ", "ge": ">= ", "lt": "< ", "le": "<= "}


def page() -> str:
    """The whole page, Markdown."""
    tables = (_table(name, classes) for name, classes in _sections().items())
    return "\n".join([_HEAD, *tables, _bundled()])


def _bundled() -> str:
    """The recipes that come with the apps, each by the first paragraph of its comment."""
    lines = ["## Recipes that come with the apps", "", "| app | `--recipe` | what |", "|---|---|---|"]
    for app in APPS:
        for name, path in plugins.load_app(app).recipes.items():
            comment = itertools.takewhile(lambda line: line.startswith("# "), path.read_text("utf-8").splitlines())
            lines.append(f"| {app} | `{name}` | {' '.join(line.removeprefix('# ') for line in comment)} |")
    return "\n".join(lines) + "\n"


def _sections() -> dict[str, Classes]:
    """By the name of a table, its class in each app that has it; first, without a name, the recipes themselves."""
    found: dict[str, Classes] = {"": APPS}
    for app, recipe in APPS.items():
        for name, field in recipe.model_fields.items():
            if _is_section(field.annotation):
                found.setdefault(name, {})[app] = field.annotation
    return found


def _table(name: str, classes: Classes) -> str:
    title = f"`[{name}]`" if name else "Before the tables"
    common = Recipe.model_fields[name].annotation if name in Recipe.model_fields else None
    about = [inspect.cleandoc(common.__doc__), ""] if _is_section(common) and common is not Section else []
    lines = [
        f"## {title}",
        "",
        *about,
        f"| key | values | {' | '.join(APPS)} | meaning |",
        "|---" * (len(APPS) + 3) + "|",
    ]
    for key in dict.fromkeys(key for kind in classes.values() for key in kind.model_fields if key != "app"):
        having = {app: kind for app, kind in classes.items() if key in kind.model_fields}
        fields = {app: kind.model_fields[key] for app, kind in having.items()}
        if not any(_is_section(field.annotation) for field in fields.values()):
            values = _said({app: _values(field) for app, field in fields.items()})
            defaults = [_default(fields[app]) if app in fields else "-" for app in APPS]
            meaning = _said({app: _meaning(kind, key) for app, kind in having.items()})
            lines.append(f"| {' | '.join([f'`{key}`', values, *defaults, meaning])} |")
    return "\n".join(lines) + "\n"


def _said(by_app: dict[str, str]) -> str:
    """Once where all say the same."""
    if len(set(by_app.values())) == 1:
        return next(iter(by_app.values()))
    return " ".join(f"*{app}:* {text}" for app, text in by_app.items() if text)


def _is_section(annotation: Any) -> bool:
    return inspect.isclass(annotation) and issubclass(annotation, BaseModel)


def _default(field: FieldInfo) -> str:
    value = field.default
    if value is None or value in ("", ()):
        return "none" if value is None else "empty"
    if isinstance(value, tuple):
        return f"all {len(value)}" if len(value) > 3 else ", ".join(map(str, value))
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _values(field: FieldInfo) -> str:
    bounds = [
        f"{sign}{getattr(part, name)}"
        for part in field.metadata
        for name, sign in _BOUNDS.items()
        if getattr(part, name, None) is not None
    ]
    return " ".join([_kind(field.annotation), *([", ".join(bounds)] if bounds else [])])


def _kind(annotation: Any) -> str:
    """In words: of a choice, what there is to choose from."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return ", ".join(f"`{part}`" for part in parts)
    if origin is Annotated:
        return _kind(parts[0])
    if origin in (Union, types.UnionType):
        return ", or ".join(_kind(part) for part in parts if part is not type(None))
    if origin is tuple:
        return "list" if parts[-1] is Ellipsis else "`HxW`"
    return _WORDS[annotation]


def _meaning(kind: type[BaseModel], key: str) -> str:
    """The docstring below the field, of the nearest class that has one."""
    for parent in kind.__mro__:
        if issubclass(parent, BaseModel) and (text := dict(_docstrings(parent)).get(key)):
            return " ".join(text.split())
    return ""


def _docstrings(kind: type[BaseModel]) -> Iterator[tuple[str, str]]:
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    body = tree.body if isinstance(tree, ast.ClassDef) else []
    for pair in itertools.pairwise(body):
        match pair:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                yield name, text


if __name__ == "__main__":
    print(page(), end="")
