"""Contracts that plugin authors run in their own tests, as scikit-learn's `check_estimator`.

What breaks one is an `AssertionError` of one line, with what to do.
"""

from surrogate.testing.apps import check_app
from surrogate.testing.example import check_plugin, measure_example
from surrogate.testing.measures import check_measure

__all__ = ["check_app", "check_measure", "check_plugin", "measure_example"]
