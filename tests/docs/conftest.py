"""Fixtures of the documentation's tests."""

from tests.support.projects import adder, dockyard, home

__all__ = ["adder", "dockyard", "home"]
