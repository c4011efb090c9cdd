"""One model format per file, found by name: `BERTH_FORMAT=onnx` loads backends/onnx.py.

A backend is a module with `load(path, options) -> Backend`. Adding a format is adding a file; nothing else changes.
"""
