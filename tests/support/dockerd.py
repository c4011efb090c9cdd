"""A real Docker Engine for tests: the machine's, when one answers, or one of our own in a temporary folder.

The fixture `dockerd` in conftest.py calls it. Our own has no bridge and no firewall rules, so it needs nothing of the
machine's network; it is stopped by its own process, and what it mounted is unmounted.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import aiodocker

START_DEADLINE = 30.0
STOP_DEADLINE = 30.0
_POOL = "--default-address-pool"
_SEARCH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@contextmanager
def docker_engine() -> Iterator[str]:
    """The address (`unix:///...`) of a Docker Engine that answers."""
    for address in (os.environ.get("DOCKER_HOST", ""), "unix:///var/run/docker.sock"):
        if address.startswith("unix://") and _answers(Path(address.removeprefix("unix://"))):
            yield address
            return
    with own_engine() as engine:
        yield f"unix://{engine.socket}"


class OwnEngine:
    """An engine that nobody else uses; it can be ended and started again on the same data.

    Its containerd is a process of its own, as where Docker is installed as a service: it outlives dockerd.
    """

    def __init__(self, *options: str) -> None:
        program = shutil.which("dockerd", path=_SEARCH)
        assert program, "dockerd is not installed: run `make test`, which installs it"
        self.folder = Path(tempfile.mkdtemp(prefix="dk-"))
        self.socket = self.folder / "d.sock"
        places = [f"--data-root={self.folder}/data", f"--exec-root={self.folder}/exec", f"--pidfile={self.folder}/pid"]
        network = ["--iptables=false", "--ip6tables=false", "--bridge=none"]
        if not any(option.startswith(_POOL) for option in options):
            # Apart from what Docker hands out by itself, and so many that bridges which killed runs left do no harm.
            network.append(f"{_POOL}=base=10.213.0.0/16,size=24")
        below = f"--containerd={self.folder}/c.sock"
        self._command = [program, *places, "-H", f"unix://{self.socket}", below, *network, *options]
        self._log = self.folder / "log"
        self._process: subprocess.Popen[bytes] | None = None
        self._containerd: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers."""
        if self._containerd is None:
            self._containerd = self._run(self._containerd_command())
        self._process = self._run(self._command)
        self._wait(self._process)

    def give_way(self) -> None:
        """Let its two processes, and the programs that they start, have the time that nothing else wants, as
        `CPUWeight=idle` does under systemd. Containers have groups of their own."""
        group = self._group
        group.mkdir()
        (group / "cpu.idle").write_text("1")
        for process in (self._process, self._containerd):
            assert process is not None
            (group / "cgroup.procs").write_text(str(process.pid))

    @property
    def _group(self) -> Path:
        """The control group of engines that give way; version 1 has one tree for each controller."""
        tree = Path("/sys/fs/cgroup/cpu")
        return (tree if tree.is_dir() else tree.parent) / self.folder.name

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End dockerd by a signal, and wait until it is gone."""
        if self._process is not None:
            _stop(self._process, number)
            self._process = None

    def remove(self) -> None:
        """Stop all of it and remove what it kept."""
        try:
            if self._process is not None and _answers(self.socket):
                with ThreadPoolExecutor(1) as apart:  # the caller may run in a loop of its own
                    apart.submit(asyncio.run, self._remove_networks()).result()
        finally:
            self._remove_all()

    def _remove_all(self) -> None:
        self.stop()
        if self._containerd is not None:
            _stop(self._containerd, signal.SIGTERM)
        _unmount(self.folder)
        with suppress(OSError):  # there was none, or a container's last process is still ending
            self._group.rmdir()
        shutil.rmtree(self.folder, ignore_errors=True)

    async def _remove_networks(self) -> None:
        """Remove the networks: dockerd leaves their bridges, with the addresses that these hold, when it ends."""
        async with asyncio.timeout(STOP_DEADLINE), aiodocker.Docker(url=f"unix://{self.socket}") as client:
            for each in await client.networks.list():
                if each["Driver"] == "bridge":
                    network = await client.networks.get(each["Id"])
                    for container in (await network.show())["Containers"]:
                        await network.disconnect({"Container": container, "Force": True})
                    await network.delete()

    def _containerd_command(self) -> list[str]:
        program = shutil.which("containerd", path=_SEARCH)
        assert program, "containerd is not installed: run `make test`, which installs it"
        config = self.folder / "containerd.toml"
        config.write_text('version = 2\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n')
        places = ["--root", f"{self.folder}/c-root", "--state", f"{self.folder}/c-state"]
        return [program, "--config", str(config), "--address", f"{self.folder}/c.sock", *places]

    def _run(self, command: Sequence[str]) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as words:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=words,
                stderr=words,
                env={**os.environ, "PATH": _SEARCH},
                start_new_session=True,
            )

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        give_up = time.monotonic() + START_DEADLINE
        while not _answers(self.socket):
            ended = process.poll() is not None
            if ended or time.monotonic() > give_up:
                how = "ended" if ended else "did not answer in time"
                tail = self._log.read_text(errors="replace")[-3000:]
                raise RuntimeError(f"dockerd {how}; the end of its log:\n{tail}")
            time.sleep(0.05)


@contextmanager
def own_engine(*options: str) -> Iterator[OwnEngine]:
    """An engine that nobody else uses, running, for as long as the context lasts."""
    engine = OwnEngine(*options)
    try:
        engine.start()
        yield engine
    finally:
        engine.remove()


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(2)
        try:
            client.connect(str(path))
            client.sendall(b"GET /_ping HTTP/1.0\r\nHost: docker\r\n\r\n")
            return b" 200 " in client.recv(100)
        except OSError:
            return False


def _stop(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    process.send_signal(number)
    try:
        process.wait(STOP_DEADLINE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(STOP_DEADLINE)


def _unmount(folder: Path) -> None:
    """Unmount what is left below the folder, deepest first."""
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    below = sorted((mount for mount in mounts if mount.startswith(f"{folder}/")), key=len, reverse=True)
    for mount in below:
        subprocess.run(["umount", "--lazy", mount], check=False)
