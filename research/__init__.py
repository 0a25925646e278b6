"""The experiments behind docs/results.md and docs/benchmarks.md. Run in a clone: `python -m research.NAME --help`."""
