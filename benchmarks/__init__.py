"""What the project costs, next to what others cost: paired, interleaved ratios. `python -m benchmarks --help`."""
