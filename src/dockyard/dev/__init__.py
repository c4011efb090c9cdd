"""Serving a project natively while it is being written: restart on a change, readable errors. For `cli.dev`.

loop.py decides, server.py runs berth as a child process, watch.py notices changes, speech.py and traces.py turn what
the child says into what people read. Which Python, which settings and which files is told by the caller.
"""
