"""An owner of a gateway, in a process of its own, to be killed: FOLDER PORT SNAPSHOT. It says Envoy's process id."""

import asyncio
import sys
from pathlib import Path

from dockyard.gateway.base import GatewaySettings
from dockyard.gateway.envoy import EnvoyGateway
from dockyard.gateway.snapshot import Snapshot


async def main(folder: str, port: str, file: str) -> None:
    gateway = await EnvoyGateway.start(GatewaySettings(Path(folder), port=int(port), workers=1), print)
    await gateway.apply(Snapshot.from_json(Path(file).read_bytes()))
    print(gateway.pid, flush=True)
    await asyncio.sleep(60)


asyncio.run(main(*sys.argv[1:]))
