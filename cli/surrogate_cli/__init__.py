"""The command line of surrogate."""
