"""The networks of the paper, one a file, each after its own paper and with a `width` to make it small."""
