"""What can be asked for, and what is asked of each engine for it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from dockyard.engines import secrets
from dockyard.engines.base import ContainerSpec
from dockyard.engines.docker.config import create_request, loads_thin_archives, present_run, remedy_of_start
from dockyard.engines.labels import remove_sockets
from dockyard.engines.runc.bundle import Bundle, Host, host_features, runtime_config
from dockyard.engines.runc.seccomp import profile
from dockyard.engines.sockets import Listener
from dockyard.errors import EngineError
from dockyard.spec.deployment import Mount
from dockyard.spec.resources import Resources
from tests.conftest import TinyImage
from tests.support.tiny_image import CONFIG


@pytest.fixture
def spec(tiny_image: TinyImage) -> ContainerSpec:
    return ContainerSpec("tiny", tiny_image.image, image_name="tiny:1")


@pytest.mark.parametrize("name", ["", "a", "-x", "../x", "a/b", "x" * 64, "a b", "ä1", ".new"])
def test_names_that_an_engine_would_refuse_or_misread_are_errors(spec: ContainerSpec, name: str) -> None:
    with pytest.raises(EngineError, match="cannot be a container's name"):
        replace(spec, name=name)


@pytest.mark.parametrize("limits", [Resources(memory=1 << 20), Resources(cpus=0.0), Resources(pids=0)])
def test_limits_that_nothing_can_start_in_are_errors(spec: ContainerSpec, limits: Resources) -> None:
    with pytest.raises(EngineError, match="too small"):
        replace(spec, resources=limits)


def test_labels_of_our_own_cannot_be_forged(spec: ContainerSpec) -> None:
    with pytest.raises(EngineError, match="belongs to Dockyard"):
        replace(spec, labels={"dev.dockyard.sockets": "/etc"})


def test_a_label_baked_into_an_image_does_not_point_removal_elsewhere(
    spec: ContainerSpec, tiny_image: TinyImage, tmp_path: Path
) -> None:
    hostile = replace(CONFIG, labels={"dev.dockyard.sockets": str(tmp_path)})
    forged = replace(spec, image=replace(tiny_image.image, config=hostile))
    assert forged.all_labels()["dev.dockyard.sockets"] == ""
    assert create_request(forged, "sha256:0", attached=False)["Labels"]["dev.dockyard.sockets"] == ""


def test_removing_sockets_touches_only_sockets(short_path: Path) -> None:
    precious = short_path / "http.sock"
    precious.write_text("a file")
    remove_sockets({"dev.dockyard.sockets": str(short_path)})
    assert precious.read_text() == "a file"


def test_the_folder_of_a_listener_outlives_containers(short_path: Path) -> None:
    with Listener.bind(short_path / "replica") as listener:
        labels = {"dev.dockyard.sockets": str(listener.folder), "dev.dockyard.sockets.owner": "listener"}
        remove_sockets(labels)
        assert listener.socket.is_socket()
        remove_sockets({**labels, "dev.dockyard.sockets.owner": "container"})
        assert not listener.folder.exists()


def test_only_folders_of_secrets_are_removed_as_such(tmp_path: Path) -> None:
    for hostile in (str(tmp_path), str(secrets.ROOT), f"{secrets.ROOT}/..", f"{secrets.ROOT}/x/../..", "", "."):
        secrets.remove(hostile)
    assert tmp_path.is_dir()


@pytest.mark.parametrize(
    "target", ["/", "/proc", "/proc/1", "/sys/fs", "/dev", "/tmp/x", "/run", "/run/berth", "/run/secrets/x", "/a/../b"]
)
def test_a_mount_covers_nothing_that_the_container_lives_on(spec: ContainerSpec, target: str) -> None:
    with pytest.raises(EngineError, match="target"):
        replace(spec, mounts=(Mount(source="/srv", target=target),))


def test_two_mounts_have_two_targets(spec: ContainerSpec) -> None:
    with pytest.raises(EngineError, match="same target"):
        replace(spec, mounts=(Mount(source="/srv", target="/data"), Mount(source="/opt", target="/data/")))


@pytest.mark.parametrize(
    ("name", "value"),
    [("../x", b""), ("", b""), ("a/b", b""), (".x", b""), ("big", bytes((1 << 20) + 1)), ("relative", Path("x"))],
)
def test_a_secret_has_a_plain_name_and_a_small_content(spec: ContainerSpec, name: str, value: bytes | Path) -> None:
    with pytest.raises(EngineError, match="secret"):
        replace(spec, secrets={name: value})


@pytest.mark.parametrize("network", ["host", "bridge", "none", "container:abc", "a b", "../x"])
def test_networks_that_would_open_the_host_are_errors(spec: ContainerSpec, network: str) -> None:
    with pytest.raises(EngineError, match="not one that a container may join"):
        replace(spec, network=network)


def test_gpus_are_asked_for_by_number_or_all(spec: ContainerSpec) -> None:
    def asked(*gpus: str) -> object:
        return create_request(replace(spec, gpus=gpus), "sha256:0", attached=False)["HostConfig"]["DeviceRequests"]

    assert asked() == []
    assert asked("0", "GPU-5b2") == [{"DeviceIDs": ["0", "GPU-5b2"], "Capabilities": [["gpu"]]}]
    assert asked("all") == [{"Count": -1, "Capabilities": [["gpu"]]}]


def test_command_replaces_the_image_command_and_keeps_its_entrypoint(spec: ContainerSpec) -> None:
    assert spec.arguments == ("/bin/tiny", "serve")
    assert replace(spec, command=("report",)).arguments == ("/bin/tiny", "report")


def test_docker_is_asked_for_no_more_than_is_allowed(spec: ContainerSpec) -> None:
    host = create_request(spec, "sha256:0", attached=False)["HostConfig"]
    assert host["NetworkMode"] == "none"
    assert host["ReadonlyRootfs"] is True
    assert host["Privileged"] is False
    assert host["CapDrop"] == ["ALL"]
    assert host["SecurityOpt"] == ["no-new-privileges"]
    assert host["Memory"] == host["MemorySwap"] == spec.resources.memory
    assert host["Mounts"] == []


def test_podman_is_not_asked_for_an_owner_of_tmp_which_it_refuses(spec: ContainerSpec) -> None:
    docker, podman = (create_request(spec, "sha256:0", attached=False, podman=podman) for podman in (False, True))
    assert "uid=65532" in docker["HostConfig"]["Tmpfs"]["/tmp"]
    assert "id=" not in podman["HostConfig"]["Tmpfs"]["/tmp"]
    assert {**docker["HostConfig"], "Tmpfs": {}} == {**podman["HostConfig"], "Tmpfs": {}}


def test_on_cgroup_version_2_the_container_gets_a_cgroup_namespace_and_no_swap(spec: ContainerSpec) -> None:
    config = runtime_config(
        spec, Bundle("rootfs", "/dockyard/x"), Host(unified=True, limits_swap=True, open_files=1024)
    )
    linux = config["linux"]
    assert {"type": "cgroup"} in linux["namespaces"]
    assert linux["resources"]["memory"] == {"limit": 2 << 30, "swap": 2 << 30}
    assert any(mount["destination"] == "/sys/fs/cgroup" and "ro" in mount["options"] for mount in config["mounts"])
    json.dumps(config)


def test_a_container_that_yields_has_a_tenth_of_the_weight_from_its_first_moment_on(spec: ContainerSpec) -> None:
    host = Host(unified=False, limits_swap=True, open_files=1024)
    usual, yielding = (
        runtime_config(replace(spec, yielding=yields), Bundle("rootfs", "/dockyard/x"), host)
        for yields in (False, True)
    )
    assert "shares" not in usual["linux"]["resources"]["cpu"]
    assert yielding["linux"]["resources"]["cpu"]["shares"] == 102


def test_the_cgroup_version_is_read_from_the_machine(tmp_path: Path) -> None:
    assert not host_features(tmp_path).unified
    assert not host_features(tmp_path).limits_swap
    (tmp_path / "cgroup.controllers").touch()
    assert host_features(tmp_path).unified


def test_the_system_call_filter_denies_by_default_and_allows_nothing_that_escapes() -> None:
    found = profile()
    allowed = {name for rule in found["syscalls"] if rule["action"] == "SCMP_ACT_ALLOW" for name in rule["names"]}
    assert found["defaultAction"] == "SCMP_ACT_ERRNO"
    assert not allowed & {
        *("mount", "umount2", "pivot_root", "move_mount", "fsopen", "open_tree", "chroot", "setns", "unshare"),
        *("bpf", "perf_event_open", "userfaultfd", "ptrace", "process_vm_readv", "process_vm_writev", "kcmp"),
        *("keyctl", "add_key", "request_key", "kexec_load", "init_module", "finit_module", "delete_module"),
        *("io_uring_setup", "open_by_handle_at", "reboot", "swapon", "settimeofday", "acct", "iopl", "ioperm"),
    }


def test_only_an_unbroken_run_from_the_bottom_can_be_left_out_of_a_load() -> None:
    assert present_run(("a", "b", "c"), [["a", "b", "x"], ["a"]]) == 2
    assert present_run(("a", "b"), [["b", "a"], ["x", "b"]]) == 0
    assert present_run(("a", "b"), [["a", "b", "c"]]) == 2
    assert present_run(("a",), []) == 0


def test_whole_archives_go_to_podman_and_to_the_containerd_image_store() -> None:
    docker = {"Components": [{"Name": "Engine"}, {"Name": "containerd"}]}
    assert loads_thin_archives({"DriverStatus": [["Backing Filesystem", "extfs"]]}, docker)
    containerd = {"DriverStatus": [["driver-type", "io.containerd.snapshotter.v1"]]}
    assert not loads_thin_archives(containerd, docker)
    assert not loads_thin_archives({"DriverStatus": None}, {"Components": [{"Name": "Podman Engine"}]})


@pytest.mark.parametrize(
    ("words", "gpus", "remedy"),
    [
        (
            'AppArmor enabled on system but ... exec: "apparmor_parser": executable file not found',
            False,
            "AppArmor's tools",
        ),
        ("could not select device driver", True, "NVIDIA Container Toolkit"),
        ('exec: "/bin/none": no such file or directory', False, "has this program"),
    ],
)
def test_a_start_that_docker_refuses_is_told_with_what_mends_it(words: str, gpus: bool, remedy: str) -> None:
    assert remedy in remedy_of_start(words, gpus=gpus)
