"""Every field of a deployment arrives in what its engine is asked to start, and nothing that was not asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dockyard.engines.base import ContainerSpec
from dockyard.errors import EngineError
from dockyard.oci.image import Image, ImageConfig, Platform, assemble
from dockyard.spec.deployment import Deployment, Limits, Mount, Network, Probes, Server
from dockyard.spec.labels import CONTRACT, CPUS, MEMORY, PIDS
from dockyard.spec.resources import Resources
from dockyard.yard.containers import container_of

MIB = 1 << 20
OURS = {CONTRACT: "1"}
SAYS = {MEMORY: str(300 * MIB), CPUS: "1.5", PIDS: "77"}


def image(**labels: str) -> Image:
    return assemble(ImageConfig(Platform.host(), command=("serve",), labels=labels), []).image


def spec(labels: dict[str, str] | None = None, **fields: Any) -> ContainerSpec:
    """The container of a deployment with these fields, of an image with these labels (ours, if nothing is said)."""
    asked = Deployment(name="iris", image="iris:1", **fields)
    return container_of(asked, image(**(OURS if labels is None else labels)), "iris:1", "iris-1-a", {"told": "yes"})


TABLE: dict[str, tuple[ContainerSpec, str, Any]] = {
    "name": (spec(), "name", "iris-1-a"),
    "image": (spec(), "image", image(**OURS)),
    "name of the image": (spec(), "image_name", "iris:1"),
    "labels": (spec(), "labels", {"told": "yes"}),
    "environment": (spec({}, environment={"THRESHOLD": "0.5"}), "environment", {"THRESHOLD": "0.5"}),
    "secrets": (spec(secrets={"key": "/etc/keys/key"}), "secrets", {"key": Path("/etc/keys/key")}),
    "mounts": (
        spec(mounts=(Mount(source="/srv/a", target="/data"), Mount(source="/srv/b", target="/out", writable=True))),
        "mounts",
        (
            Mount(source="/srv/a", target="/data", writable=False),
            Mount(source="/srv/b", target="/out", writable=True),
        ),
    ),
    "memory": (spec(OURS | SAYS, resources=Limits(memory="1GiB")), "resources", Resources(1 << 30, 1.5, 77)),
    "cpus": (spec(OURS | SAYS, resources=Limits(cpus=0.5)), "resources", Resources(300 * MIB, 0.5, 77)),
    "pids": (spec(OURS | SAYS, resources=Limits(pids=12)), "resources", Resources(300 * MIB, 1.5, 12)),
    "limits of the image": (spec(OURS | SAYS), "resources", Resources(300 * MIB, 1.5, 77)),
    "limits that nobody says": (spec(), "resources", Resources()),
    "gpus": (spec(resources=Limits(gpus=("0", "GPU-1"))), "gpus", ("0", "GPU-1")),
    "egress": (spec(network=Network(egress="models")), "network", "models"),
    "goldens": (spec(), "environment", {"BERTH_SELFTEST": "on"}),
    "goldens whatever the environment says": (
        spec(environment={"BERTH_SELFTEST": "off", "A": "b"}),
        "environment",
        {"BERTH_SELFTEST": "on", "A": "b"},
    ),
    "no goldens": (spec(probes=Probes(goldens=False)), "environment", {}),
    "no goldens of a server of others": (spec({}, server=Server(port=9000)), "environment", {}),
    "port": (spec({}, server=Server(port=9000)), "tcp_port", 9000),
    "no port of ours": (spec(server=Server(port=9000)), "tcp_port", 0),
    "command": (spec({}, server=Server(port=9000, command=("tritonserver", "-v"))), "command", ("tritonserver", "-v")),
    "the image's own command": (spec(), "arguments", ("serve",)),
}


@pytest.mark.parametrize(("made", "field", "expected"), TABLE.values(), ids=TABLE)
def test_what_a_deployment_asks_for_is_what_its_container_gets(made: ContainerSpec, field: str, expected: Any) -> None:
    assert getattr(made, field) == expected


def test_what_nobody_asked_for_is_not_there() -> None:
    plain = spec({}, server=Server(port=9000))
    assert (plain.secrets, plain.mounts, plain.gpus, plain.network, plain.environment) == ({}, (), (), "", {})


def test_a_mount_is_read_only_unless_it_says_otherwise() -> None:
    (mount,) = spec(mounts=(Mount(source="/srv/a", target="/data"),)).mounts
    assert not mount.writable


@pytest.mark.parametrize(
    ("fields", "rule"),
    [
        ({"resources": Limits(memory="1MiB")}, "too small"),
        ({"mounts": (Mount(source="/srv/a", target="/proc/x"),)}, "/proc"),
        ({"network": Network(egress="host")}, "host"),
    ],
)
def test_what_no_engine_may_do_is_refused_before_anything_is_started(fields: dict[str, Any], rule: str) -> None:
    with pytest.raises(EngineError, match=rule):
        spec(**fields)
