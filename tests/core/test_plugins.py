"""Packages that bring apps and measures: listed without an import, loaded one at a time, complained of by name."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable

import pytest

from surrogate import plugins
from surrogate.errors import UsageError

Install = Callable[..., None]
GROUP = "surrogate.measures.nowhere"
MEASURE = """
from surrogate.protocols import Measure

def make(**told):
    return Measure(metric=lambda o, t: o, stats=lambda o, t: o, columns=tuple(f"{k}={told[k]}" for k in sorted(told)))

def free():
    return make()

def asks(*, num_classes, ignore_index=-1, soft=False):
    return make(num_classes=num_classes, ignore_index=ignore_index, soft=soft)

def positional(num_classes, soft=False):
    return make(num_classes=num_classes, soft=soft)

def takes_all(**told):
    return make(**told)

def not_a_measure():
    return "accuracy"

already_made = make()

def of_level(*, level):
    import dataclasses
    return dataclasses.replace(make(), level=level)
"""
NAMES = ("free", "asks", "positional", "takes_all", "not_a_measure", "already_made", "of_level")
FACTS = {"num_classes": 5, "names": ["sky"]}


@pytest.fixture
def measures(install: Install) -> None:
    """A package with a measure of every kind."""
    install("plain", {GROUP: {name: f"plain_measures:{name}" for name in NAMES}}, {"plain_measures": MEASURE})


def loaded(name: str, **options: object) -> tuple[str, ...]:
    return plugins.load_measure("nowhere", name, facts=FACTS, options=options).columns


def test_plugins_are_listed_by_name_without_an_import(install: Install) -> None:
    broken = {"exploding": "raise RuntimeError('boom')"}
    install("second", {GROUP: {"zebra": "exploding:zebra", "antelope": "not_there:antelope"}}, broken)
    install("first", {"surrogate.measures.elsewhere": {"gnu": "exploding:gnu"}, "other.group": {"x": "y"}}, {})
    found = plugins.listed(GROUP)
    assert [(p.name, p.package, p.package_version, p.target) for p in found] == [
        ("antelope", "second", "1.5", "not_there:antelope"),
        ("zebra", "second", "1.5", "exploding:zebra"),
    ]
    below = [p.name for p in plugins.listed(plugins.MEASURES) if p.package in ("first", "second")]
    assert below == ["gnu", "antelope", "zebra"]  # by group, then by name
    assert plugins.listed("surrogate.measures.now") == []
    assert "exploding" not in sys.modules


def test_the_built_in_apps_arrive_as_a_strangers_do() -> None:
    assert {"segmentation", "toy"} <= {p.name for p in plugins.listed(plugins.APPS)}


def test_an_app_is_loaded_and_its_neighbour_is_not(install: Install) -> None:
    modules = {"nowhere_app": "from surrogate_toy import app", "exploding": "raise RuntimeError('boom')"}
    install("plain", {"surrogate.apps": {"nowhere": "nowhere_app:app", "bad": "exploding:app"}}, modules)
    assert plugins.load_app("nowhere") is plugins.load_app("toy")
    assert "exploding" not in sys.modules
    with pytest.raises(UsageError, match=r"no app is called 'nowere'; did you mean 'nowhere'\?"):
        plugins.load_app("nowere")


def test_what_is_no_whole_app_is_told_with_what_it_lacks(install: Install) -> None:
    source = "class Bare:\n    recipe, baselines, recipes, variants, open = None, (), {}, {}, None\napp = Bare()"
    install("plain", {"surrogate.apps": {"bare": "bare_app:app"}}, {"bare_app": source})
    told = (
        "bare_app:app of package plain is no app: it has no example, standard; derive its class from surrogate.protoc"
    )
    with pytest.raises(UsageError, match=told):
        plugins.load_app("bare")


@pytest.mark.parametrize(
    ("target", "source", "reason", "line"),
    [
        ("broken:make", "raise RuntimeError('boom\\nand a second line')", "RuntimeError: boom", 1),
        ("broken:make", "x = 1\nimport no_such_module", "ModuleNotFoundError: No module named 'no_such_module'", 2),
        ("broken:make", "from json import no_such_name", "ImportError: cannot import name", 1),
        ("broken:make", "import json\n\njson.loads('{')", "JSONDecodeError", 3),
        ("broken:make", "other = 1", "AttributeError", None),
        ("broken:make", "def f():\n    return g\n\n\nx = f()", "NameError", 2),
        ("broken:make", "x = 1\ndef (", "SyntaxError", 2),
        ("missing_module:make", "", "ModuleNotFoundError", None),
        ("broken.part:make", "", "ModuleNotFoundError", None),
        ("broken:make", "raise ValueError", "ValueError: ", 1),
    ],
)
def test_a_package_that_does_not_load_is_named_in_one_line(
    target: str, source: str, reason: str, line: int | None, install: Install
) -> None:
    install("rotten", {GROUP: {"broken": target}}, {"broken": source})
    with pytest.raises(UsageError, match=rf"{target} of package rotten does not load \({reason}") as caught:
        plugins.load_measure("nowhere", "broken", facts={}, options={})
    to_do = (
        rf"; mend \S+broken\.py, line {line}($|, or install no_such_module$)"
        if line
        else r"; reinstall or uninstall rotten$"
    )
    assert re.search(to_do, str(caught.value))
    assert "\n" not in str(caught.value)


def test_a_broken_package_does_not_stand_in_the_way_of_a_whole_one(install: Install, measures: None) -> None:  # noqa: ARG001
    install("rotten", {GROUP: {"broken": "broken:make"}}, {"broken": "raise RuntimeError('boom')"})
    assert loaded("free") == ()


def test_two_packages_of_one_name_are_both_named(install: Install) -> None:
    for package in ("right", "left"):
        install(package, {GROUP: {"same": f"{package}_measures:free"}}, {f"{package}_measures": MEASURE})
    with pytest.raises(UsageError, match=r"two packages bring .* 'same': left and right; uninstall one"):
        loaded("same")


@pytest.mark.usefixtures("measures")
def test_facts_are_told_to_those_who_ask() -> None:
    assert loaded("free") == ()
    assert loaded("asks") == ("ignore_index=-1", "num_classes=5", "soft=False")
    assert loaded("positional") == ("num_classes=5", "soft=False")
    assert loaded("takes_all") == ("names=['sky']", "num_classes=5")


@pytest.mark.usefixtures("measures")
def test_options_of_the_recipe_are_handed_over_and_go_before_facts() -> None:
    assert loaded("asks", soft=True, num_classes=3) == ("ignore_index=-1", "num_classes=3", "soft=True")
    assert loaded("takes_all", anything=1) == ("anything=1", "names=['sky']", "num_classes=5")


@pytest.mark.usefixtures("measures")
def test_an_unknown_option_is_named_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"unknown recipe key 'measure.sotf' .* did you mean 'soft'\?"):
        loaded("asks", sotf=True)
    with pytest.raises(UsageError, match=r"unknown recipe key 'measure.soft' .* known: none"):
        loaded("free", soft=True)


@pytest.mark.usefixtures("measures")
@pytest.mark.parametrize("name", ["asks", "positional"])
def test_a_fact_that_nobody_tells_is_named(name: str) -> None:
    with pytest.raises(UsageError, match=r"asks for 'num_classes', .* \(it tells size\); .* measure\.num_classes"):
        plugins.load_measure("nowhere", name, facts={"size": 3}, options={})
    with pytest.raises(UsageError, match="it tells nothing"):
        plugins.load_measure("nowhere", name, facts={}, options={})


@pytest.mark.usefixtures("measures")
def test_an_unknown_measure_is_named_with_the_nearest() -> None:
    with pytest.raises(
        UsageError, match=r"no measure of app 'nowhere' is called 'take_all'; did you mean 'takes_all'\?"
    ):
        loaded("take_all")
    with pytest.raises(UsageError, match="no measure of app 'void' is called 'free'; known: none"):
        plugins.load_measure("void", "free", facts={}, options={})


@pytest.mark.usefixtures("measures")
def test_what_is_not_a_measure_is_refused() -> None:
    with pytest.raises(UsageError, match=r"'not_a_measure' gave a str; expected a surrogate\.protocols\.Measure"):
        loaded("not_a_measure")
    with pytest.raises(UsageError, match=r"'of_level': level 'smaple'; did you mean 'sample'\?"):
        loaded("of_level", level="smaple")
    with pytest.raises(UsageError, match='level "dataset" without sums'):
        loaded("of_level", level="dataset")
    with pytest.raises(UsageError, match="'already_made' is a Measure; expected a function that makes a Measure"):
        loaded("already_made")
