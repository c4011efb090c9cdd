"""Fixtures of the journeys."""

from tests.support.projects import adder, dockyard, home

__all__ = ["adder", "dockyard", "home"]
