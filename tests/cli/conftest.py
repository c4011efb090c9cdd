"""Fixtures of the command line's tests."""

from tests.support.projects import adder, dockyard, home

__all__ = ["adder", "dockyard", "home"]
