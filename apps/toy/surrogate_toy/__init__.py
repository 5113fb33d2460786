"""The discontinuous function of the paper, Section 4.2, as an application."""
