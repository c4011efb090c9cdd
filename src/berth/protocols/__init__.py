"""Bytes <-> requests and answers, one protocol per file; nothing here does I/O."""
