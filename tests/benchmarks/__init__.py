"""Benchmarks: figures for docs and decisions, none of them asserted."""
