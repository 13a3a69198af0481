"""Benchmarks of embedders and of generators, with reports."""
