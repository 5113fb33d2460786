"""The discontinuous function of the paper, Section 4.2, as an application."""

from surrogate_toy.app import app

__all__ = ["app"]
