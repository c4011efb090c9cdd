"""`berth batch`: many rows from a file, a folder or a pipe, through the model, to JSON lines.

sources.py reads records, inputs.py makes calls of them, score.py sends them through the server's own batcher and
executors, output.py writes and resumes, progress.py tells of it; batch.py puts them together for `__main__`.
"""
