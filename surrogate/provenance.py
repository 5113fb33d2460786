"""What a run was made with."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

PACKAGES = (
    "surrogate-loss",
    "torch",
    "numpy",
    "scipy",
    "scikit-learn",
    "h5py",
    "safetensors",
    "accelerate",
    "pydantic",
)


def provenance() -> dict[str, Any]:
    """Versions and platform; no time and no paths, so that the same run gives the same bytes."""
    return {
        "versions": {"python": platform.python_version(), **versions(PACKAGES)},
        "platform": platform.platform(),
    }


def versions(packages: tuple[str, ...]) -> dict[str, str | None]:
    """Installed version of each package, None where it is missing."""

    def found(package: str) -> str | None:
        try:
            return version(package)
        except PackageNotFoundError:
            return None

    return {package: found(package) for package in packages}
