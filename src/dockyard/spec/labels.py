"""The labels by which an image says what is in it: `build` writes them; running, deploying and inspecting read them."""

from __future__ import annotations

from collections.abc import Mapping

from dockyard.spec.resources import Resources

MODEL_NAME = "dev.dockyard.model.name"
MODEL_VERSION = "dev.dockyard.model.version"
MODEL_SIGNATURE = "dev.dockyard.model.signature"
"""Inputs and outputs of the models that a format loads: `spec.signature` reads it."""
CONTRACT = "dev.dockyard.berth.contract"
"""The version of the contract between berth and engines; an image without it has another server, or none."""
MEMORY = "dev.dockyard.run.memory"
CPUS = "dev.dockyard.run.cpus"
PIDS = "dev.dockyard.run.pids"


def limits(labels: Mapping[str, str], memory: int = 0, cpus: float = 0, pids: int = 0) -> Resources:
    """The limits that were asked for (zero: none was), else those that the project wrote, else the defaults."""
    default = Resources()
    return Resources(
        memory=memory or int(labels.get(MEMORY, default.memory)),
        cpus=cpus or float(labels.get(CPUS, default.cpus)),
        pids=pids or int(labels.get(PIDS, default.pids)),
    )
