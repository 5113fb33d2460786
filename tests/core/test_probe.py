"""Listing: nothing is imported here, what fails is told, and one broken package breaks nothing else."""

from __future__ import annotations

import sys
from collections.abc import Callable

from surrogate import describe

Install = Callable[..., None]
GROUP = "surrogate.measures.toy"
GOOD = """
print("a plugin that prints")
import torch
from surrogate.protocols import Measure

def batch():
    return Measure(lambda o, t, /: o.mean(0), lambda o, t, /: o.mean(0, True), columns=("x",), level="batch")
"""


def rows(**by_package: str) -> dict[str, tuple[str | None, str | None]]:
    found = [m for m in describe.measures("toy") if m["package"] in by_package]
    return {f"{m['package']}:{m['name']}": (m["level"], m["error"]) for m in found}


def test_every_measure_is_listed_and_what_is_wrong_is_told(install: Install) -> None:
    install("good", {GROUP: {"batch": "probed_good:batch", "both": "probed_good:batch"}}, {"probed_good": GOOD})
    install("other", {GROUP: {"both": "probed_other:batch"}}, {"probed_other": GOOD})
    install("bad", {GROUP: {"bad": "probed_bad:make"}}, {"probed_bad": "raise RuntimeError('boom')"})
    install("abrupt", {GROUP: {"abrupt": "probed_abrupt:make"}}, {"probed_abrupt": "import os; os._exit(7)"})
    install("quits", {GROUP: {"quits": "probed_quits:make"}}, {"probed_quits": "import sys; sys.exit(3)"})
    found = rows(good="", other="", bad="", abrupt="", quits="")
    assert found["good:batch"] == ("batch", None)
    twice = "two packages bring it: good and other; uninstall one"
    assert found["good:both"] == found["other:both"] == (None, twice)
    assert found["bad:bad"][1] is not None
    assert "of package bad does not load (RuntimeError: boom)" in found["bad:bad"][1]
    assert found["abrupt:abrupt"] == (None, "loading it ends Python (exit code 7); uninstall abrupt")
    assert found["quits:quits"] == (
        None,
        "probed_quits:make raised SystemExit: 3; mend or uninstall quits",
    )
    assert not {name for name in sys.modules if name.startswith("probed_")}


def test_an_app_that_does_not_load_is_a_line(install: Install) -> None:
    install("bad", {"surrogate.apps": {"bad": "probed_bad:app"}}, {"probed_bad": "import no_such_module"})
    found = {entry["name"]: entry["error"] for entry in describe.apps()}
    assert "No module named 'no_such_module'" in found.pop("bad")
    assert set(found.values()) == {None}
    assert "probed_bad" not in sys.modules


def test_doctor_tells_what_is_wrong_apart_from_what_to_do(install: Install) -> None:
    install("bad", {GROUP: {"bad": "probed_bad:make"}}, {"probed_bad": "x = 1\nx = y"})
    [found] = [entry for entry in describe.doctor()["missing"] if entry["what"] == "bad"]
    assert found["why"].endswith("does not load (NameError: name 'y' is not defined)")
    assert found["fix"].startswith("mend ")
    assert found["fix"].endswith("probed_bad.py, line 2")
