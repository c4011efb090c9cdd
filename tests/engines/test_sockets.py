"""The host's side of socket activation, against a peer that plays berth, over real sockets."""

from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path

import pytest

from dockyard.engines.sockets import Activation, Listener
from dockyard.errors import EngineError, PortTakenError, StartError


def take(folder: Path) -> tuple[socket.socket, bytes, list[socket.socket]]:
    """What berth does: connect, receive one message with the listeners."""
    control = socket.socket(socket.AF_UNIX)
    control.connect(str(folder / "activate.sock"))
    control.settimeout(5)
    message, descriptors, _, _ = socket.recv_fds(control, 4096, 8)
    return control, message, [socket.socket(fileno=descriptor) for descriptor in descriptors]


async def test_the_listeners_come_in_one_message_in_the_order_it_names(short_path: Path) -> None:
    listener = Listener.bind(short_path / "run" / "one", publish=0)
    with Activation(listener) as activation:
        taking = asyncio.create_task(asyncio.to_thread(take, listener.folder))
        await activation.hand_over()
        control, message, listeners = await taking
        assert message.endswith(b"\n")
        assert json.loads(message) == {"listeners": [{"kind": "unix"}, {"kind": "tcp"}]}
        assert [each.family for each in listeners] == [socket.AF_UNIX, socket.AF_INET]
        control.send(b"ready\n")
        await activation.wait_ready()
    (port,) = listener.ports
    listener.close()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    listeners[1].setblocking(True)
    accepted, _ = listeners[1].accept()
    accepted.sendall(b"hello")
    accepted.close()
    assert await reader.read() == b"hello"
    writer.close()
    await writer.wait_closed()
    for each in (*listeners, control):
        each.close()


async def test_one_listener_is_handed_over_again_and_again(short_path: Path) -> None:
    with Listener.bind(short_path / "replica") as listener:
        for _ in range(3):
            with Activation(listener) as activation:
                taking = asyncio.create_task(asyncio.to_thread(take, listener.folder))
                await activation.hand_over()
                control, _, (copy,) = await taking
                assert copy.getsockname() == str(listener.socket)
                copy.close()
                control.close()
            assert [path.name for path in listener.folder.iterdir()] == ["http.sock"]
    with pytest.raises(EngineError, match="is closed"):
        Activation(listener)


async def test_a_connection_made_before_the_container_runs_waits_in_the_kernel(short_path: Path) -> None:
    with Listener.bind(short_path / "early") as listener, Activation(listener) as activation:
        early = socket.socket(socket.AF_UNIX)
        early.connect(str(listener.socket))
        assert listener.waiting
        taking = asyncio.create_task(asyncio.to_thread(take, listener.folder))
        await activation.hand_over()
        control, _, (copy,) = await taking
        accepted, _ = copy.accept()
        for each in (early, accepted, copy, control):
            each.close()


async def test_hanging_up_and_nonsense_are_start_errors(short_path: Path) -> None:
    for number, answer in enumerate((b"", b"maybe\n", b"x" * 5000)):
        with Listener.bind(short_path / str(number)) as listener, Activation(listener) as activation:
            taking = asyncio.create_task(asyncio.to_thread(take, listener.folder))
            await activation.hand_over()
            control, _, (copy,) = await taking
            control.send(answer)
            control.close()
            copy.close()
            with pytest.raises(StartError):
                await activation.wait_ready()


def test_modes_let_the_container_in_and_other_users_of_the_host_out(short_path: Path) -> None:
    with Listener.bind(short_path / "run" / "modes") as listener:
        assert listener.folder.parent.stat().st_mode & 0o777 == 0o700
        assert listener.folder.stat().st_mode & 0o777 == 0o755
        assert listener.socket.stat().st_mode & 0o777 == 0o666


def test_a_taken_port_names_the_port_and_leaves_no_folder(short_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(PortTakenError, match=f"port {port} ") as caught:
            Listener.bind(short_path / "run" / "taken", publish=port)
        assert "another port" in caught.value.remedy
    assert not (short_path / "run").exists()


def test_an_impossible_port_is_an_error(short_path: Path) -> None:
    with pytest.raises(EngineError, match="not a TCP port"):
        Listener.bind(short_path / "run", publish=70000)


def test_a_path_too_long_for_a_socket_is_an_error_that_says_so(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="too long a path"):
        Listener.bind(tmp_path / ("x" * 90) / "name")


def test_a_failed_start_leaves_neither_folder_nor_bound_port(short_path: Path) -> None:
    class Boom(Exception):
        pass

    folder = short_path / "run" / "failed"
    listener = Listener.bind(folder, publish=0)
    (port,) = listener.ports
    with pytest.raises(Boom), listener:
        raise Boom
    assert not folder.exists()
    with socket.create_server(("127.0.0.1", port)):
        pass


def test_a_socket_that_the_dead_left_is_replaced_and_discarded_with_its_folder(short_path: Path) -> None:
    Listener.bind(short_path / "replica").close()
    with socket.socket(socket.AF_UNIX) as client, pytest.raises(ConnectionRefusedError):
        client.connect(str(short_path / "replica" / "http.sock"))
    second = Listener.bind(short_path / "replica")
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(second.socket))
    second.discard()
    assert list(short_path.iterdir()) == []
