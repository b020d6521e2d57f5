"""What is measured: each module is a command, `python -m benchmarks.NAME [--quick] [--json FILE]`."""
