"""The choice of the engine: what answers, what does not, and what is said about it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from dockyard.engines import detect as detection
from dockyard.engines.detect import detect, find
from dockyard.engines.docker.engine import DockerEngine
from dockyard.errors import EngineError, EngineNotFoundError

NO_DOCKER = {"PATH": "", "XDG_RUNTIME_DIR": "/nonexistent"}

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="runc needs root")


@pytest.fixture
def no_engine_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look for sockets and programs only where the test says."""
    monkeypatch.setattr(detection, "_usual_addresses", lambda _: ["unix:///nonexistent/docker.sock"])


@asynccontextmanager
async def server(path: Path, answer: bytes | None) -> AsyncIterator[str]:
    """A unix socket where every connection gets `answer`, or nothing at all, ever."""
    release = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if answer is None:
            await release.wait()
        else:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            await writer.drain()
        writer.close()

    listening = await asyncio.start_unix_server(serve, path)
    try:
        yield f"unix://{path}"
    finally:
        release.set()
        listening.close()
        await listening.wait_closed()


async def test_docker_is_chosen_when_it_answers_and_the_reason_names_it(dockerd: str, tmp_path: Path) -> None:
    choice = await detect(tmp_path, environment={"DOCKER_HOST": dockerd})
    try:
        assert choice.engine.name == "docker"
        assert choice.why.startswith("docker: Docker ")
        assert dockerd in choice.why
        assert await choice.engine.list() == ()
    finally:
        await choice.engine.close()


async def test_podman_is_called_by_its_name(short_path: Path) -> None:
    answer = b"HTTP/1.1 200 OK\r\nApi-Version: 1.41\r\nServer: Libpod/4.3.1 (linux)\r\nContent-Length: 2\r\n\r\nOK"
    async with server(short_path / "podman.sock", answer) as address:
        found = await find({"DOCKER_HOST": address})
    assert found.why.startswith("docker: Podman 4.3.1 answers")


@needs_root
@pytest.mark.usefixtures("no_engine_of_the_machine")
async def test_runc_is_chosen_when_no_docker_answers(tmp_path: Path) -> None:
    choice = await detect(tmp_path, environment=NO_DOCKER)
    assert choice.engine.name == "runc"
    assert "no Docker answers" in choice.why


@needs_root
async def test_runc_can_be_asked_for_though_docker_answers(dockerd: str, tmp_path: Path) -> None:
    choice = await detect(tmp_path, prefer="runc", environment={"DOCKER_HOST": dockerd})
    assert choice.engine.name == "runc"
    assert "asked for" in choice.why


@pytest.mark.usefixtures("no_engine_of_the_machine")
async def test_without_any_engine_each_attempt_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(detection, "_PROGRAM_FOLDERS", "")
    with pytest.raises(EngineNotFoundError) as caught:
        await detect(tmp_path, environment=NO_DOCKER)
    assert "/nonexistent/docker.sock is not there" in caught.value.detail
    assert "runc: not on the PATH" in caught.value.detail
    assert "install runc" in caught.value.remedy


@pytest.mark.usefixtures("no_engine_of_the_machine")
async def test_docker_asked_for_and_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(EngineNotFoundError, match="no docker engine"):
        await detect(tmp_path, prefer="docker", environment=NO_DOCKER)


@pytest.mark.parametrize("host", ["tcp://198.51.100.7:2376", "ssh://user@198.51.100.7"])
async def test_an_engine_on_another_machine_is_refused_with_a_remedy(host: str, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="not on this machine") as caught:
        await detect(tmp_path, environment={"DOCKER_HOST": host})
    assert host in caught.value.what
    assert "on that machine itself" in caught.value.remedy


async def test_a_docker_host_that_is_not_there_is_an_error_not_a_reason_for_another_engine(tmp_path: Path) -> None:
    with pytest.raises(EngineNotFoundError, match=r"nowhere\.sock is not there"):
        await detect(tmp_path, environment={"DOCKER_HOST": "unix:///nonexistent/nowhere.sock"})


async def test_an_engine_that_never_answers_is_given_up(
    monkeypatch: pytest.MonkeyPatch, short_path: Path, tmp_path: Path
) -> None:
    monkeypatch.setattr(detection, "PING_DEADLINE", 0.2)
    async with server(short_path / "d.sock", None) as address:
        with pytest.raises(EngineNotFoundError, match="does not answer within"):
            await detect(tmp_path, environment={"DOCKER_HOST": address})


async def test_something_else_on_the_socket_is_not_taken_for_an_engine(short_path: Path, tmp_path: Path) -> None:
    for answer in (b"HTTP/1.1 404 Not Found\r\n\r\n", b"SSH-2.0-thing\r\n\r\n", b"x"):
        path = short_path / f"{len(answer)}.sock"
        async with server(path, answer) as address:
            with pytest.raises(EngineNotFoundError, match="does not answer like an engine"):
                await detect(tmp_path, environment={"DOCKER_HOST": address})


async def test_every_request_to_a_hanging_engine_has_a_deadline(short_path: Path) -> None:
    async with server(short_path / "d.sock", None) as address:
        engine = DockerEngine(address, deadline=0.3)
        try:
            with pytest.raises(EngineError, match=r"did not answer within 0\.3 s"):
                await engine.list()
        finally:
            await engine.close()


async def test_an_engine_that_went_away_is_an_error_with_its_address(short_path: Path) -> None:
    engine = DockerEngine(f"unix://{short_path}/gone.sock")
    try:
        with pytest.raises(EngineError, match=r"gone\.sock"):
            await engine.list()
    finally:
        await engine.close()


@needs_root
def test_runc_without_root_says_what_to_do() -> None:
    code = """
import os, asyncio, pathlib
from dockyard.engines.runc.engine import RuncEngine
from dockyard.engines.detect import detect
from dockyard.errors import EngineError
os.setuid(65534)
for attempt in (lambda: RuncEngine(pathlib.Path("/tmp"), pathlib.Path("/usr/sbin/runc")),
                lambda: asyncio.run(detect(pathlib.Path("/tmp"), prefer="runc", environment={}))):
    try:
        attempt()
    except EngineError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert "works for root only" in done.stdout
    assert "this is not root" in done.stdout


def test_choosing_runc_does_not_load_the_client_of_docker() -> None:
    code = "import sys, dockyard.engines.detect, dockyard.engines.runc.engine; print('aiohttp' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout == "False\n"
