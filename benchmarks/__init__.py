"""Ours and the peers', side by side, one command, one table: ``python -m benchmarks``."""
