"""Binary classification of tables: scikit-learn's bundled data made unbalanced, or a user's CSV."""

from surrogate_tabular.app import app

__all__ = ["app"]
