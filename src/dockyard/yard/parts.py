"""What the yard's operations work with, put together by `cli.up`."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from dockyard.gateway.base import Gateway
from dockyard.spec.home import Home
from dockyard.yard.admission import Admission
from dockyard.yard.audit import AuditLog
from dockyard.yard.host import Host
from dockyard.yard.looking import Looking
from dockyard.yard.reconcile import Reconciler
from dockyard.yard.store import Store


@dataclass(frozen=True)
class Parts:
    """Everything that a yard is made of."""

    home: Home
    host: Host
    store: Store
    audit: AuditLog
    reconciler: Reconciler
    gateway: Gateway
    admission: Admission
    looking: Looking
    started: float = field(default_factory=time.time)
