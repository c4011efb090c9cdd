"""Benchmarks of what stands in front of running models."""
