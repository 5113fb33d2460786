"""A new package with one measure in it: what `surrogate plugins new` writes."""

from __future__ import annotations

import keyword
import re
from pathlib import Path

from surrogate import plugins
from surrogate.errors import UsageError

_PYPROJECT = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "{package}"
version = "0.1.0"
description = "{name}, a measure for the app {app} of surrogate"
readme = "README.md"
requires-python = ">=3.11"
dependencies = ["surrogate-loss"]

[project.entry-points."surrogate.measures.{app}"]
{name} = "{module}:{variable}"

[tool.hatch.build.targets.wheel]
only-include = ["{module}.py"]
"""
_MODULE = '''\
"""{name}: a measure for the app {app}."""

from surrogate.from_function import measure_from_function


{metric}


# The least and the greatest value, and which is better; by takes= the function is given another view of the outputs.
{variable} = measure_from_function(metric, app="{app}", bounds=(0.0, 1.0), higher_is_better=True)
'''
_TEST = '''\
"""{name} keeps the contract of a measure."""

from surrogate.testing import check_measure, measure_example


def test_the_contract():
    example = measure_example("{name}", app="{app}")
    check_measure(example.measure, example.outputs, example.targets, perfect=example.perfect)
'''
_README = """\
# {package}

The measure `{name}` for the app `{app}` of `surrogate`. Write your metric into `{module}.py`, then, in this folder:

```sh
pip install -e .    # once, where surrogate is installed; the measure is found by its entry point
surrogate plugins check {name} --app {app}    # says what to mend
python -m pytest    # the same, as a test
surrogate fit --app {app} --measure {name}
surrogate finetune    # trains the model through it
```

Where surrogate is not installed yet, install it first, from its repository and with its versions:
`pip install -c constraints.txt -e .` there.
"""


def new_package(name: str, *, app: str, folder: Path | None = None) -> list[Path]:
    """Writes a package with the example metric of the app as its measure `name`; returns its files.

    `folder` is made, and by default is called as the package, in the working directory.

    Raises:
        UsageError: not a name, an installed one, no such app, one without an example, or the folder exists.
    """
    _check_name(name, app)
    example = plugins.load_app(app).example.strip()
    if not example:
        raise UsageError(
            f"app {app!r} has no example of a plain function to begin with; write a surrogate.protocols.Measure, or "
            "give the app `example` and `standard`"
        )
    package = "-".join(("surrogate", *re.findall(r"[a-z0-9]+", app.lower()), *re.findall(r"[a-z0-9]+", name)))
    told = {
        "name": name,
        "variable": name.replace("-", "_"),
        "app": app,
        "package": package,
        "module": package.replace("-", "_"),
        "metric": example,
    }
    root = folder or Path(package)
    try:
        root.mkdir(parents=True)
    except FileExistsError:
        raise UsageError(f"{root}: exists, and nothing in it is changed; name another folder by --folder") from None
    except OSError as error:
        raise UsageError(f"{root}: cannot be made ({error.strerror}); name another folder by --folder") from None
    templates = {
        "pyproject.toml": _PYPROJECT,
        f"{told['module']}.py": _MODULE,
        f"tests/test_{told['variable']}.py": _TEST,
        "README.md": _README,
    }
    (root / "tests").mkdir()
    for file, template in templates.items():
        (root / file).write_text(template.format(**told), encoding="utf-8")
    return [root / file for file in templates]


def _check_name(name: str, app: str) -> None:
    variable = name.replace("-", "_")
    if reason := _no_variable(variable):
        raise UsageError(f"{name!r}: not a name for a measure; {reason}")
    if variable in ("metric", "measure_from_function"):
        raise UsageError(f"{name!r}: the module has something of that name already; choose another, such as my_{name}")
    if taken := [p.package for p in plugins.listed(plugins.MEASURES + app) if p.name == name]:
        raise UsageError(f"app {app!r} has a measure {name!r} already, of package {taken[0]}; choose another name")


def _no_variable(name: str) -> str:
    """Why a name of lower-case letters cannot be that of a variable, and what could; empty where it can."""
    if not re.fullmatch(r"[a-z0-9_]+", name):
        return "expected lower-case letters, digits, - and _, such as my-f2"
    if not name[0].isalpha():
        return f"it must begin with a letter, such as my-{name.strip('_') or 'f2'}"
    return f"it is a word of Python; choose another, such as my-{name}" if keyword.iskeyword(name) else ""
