"""The commands `surrogate plugins ...`: for whoever brings a measure of their own."""

from pathlib import Path
from typing import Annotated

import typer

from surrogate_cli import view
from surrogate_cli.options import Json

plugins = typer.Typer(help="Write and check a measure of your own.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the measure.")]


@plugins.command()
def new(
    name: Name,
    app: Annotated[str, typer.Option(metavar="NAME", help="Application; see `surrogate apps`.")],
    folder: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder to make; by default called as the package.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a package with a measure that works, to be changed into yours."""
    from surrogate.scaffold import new_package

    files = new_package(name, app=app, folder=folder)
    root = files[0].parent
    view.result(
        "plugins",
        {
            "name": name,
            "app": app,
            "folder": str(root),
            "files": [str(file.relative_to(root)) for file in files],
            "install": f"pip install -e {root}",
            "check": f"surrogate plugins check {name} --app {app}",
            "fit": f"surrogate fit --app {app} --measure {name}",
        },
        as_json=as_json,
    )


@plugins.command()
def check(
    name: Name,
    app: Annotated[
        str | None, typer.Option(metavar="NAME", help="Application; needed where several have the measure.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Run the contract of an installed measure on an example; exit code 5 when it is broken."""
    from surrogate.errors import QualityError
    from surrogate.plugins import app_of
    from surrogate.testing import check_plugin

    app = app or app_of(name)
    checks = [{"check": what, "ok": not failure, "to_do": failure} for what, failure in check_plugin(name, app=app)]
    broken = [entry["check"] for entry in checks if not entry["ok"]]
    view.result("plugins", {"name": name, "app": app, "ok": not broken, "checks": checks}, as_json=as_json)
    if broken:
        raise QualityError(f"measure {name!r} breaks {', '.join(map(str, broken))}; to_do above says what to mend")
