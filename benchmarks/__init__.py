"""Measurements that anyone can repeat: `make bench` runs them all and writes `benchmarks/results/`.

Timed tests do not exist in this project; what must be fast is measured here, on a machine that is named.
"""
