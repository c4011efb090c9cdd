"""nginx's configuration, as far as it is the same wherever it is measured: no access log, and nothing outside a folder.

Called by `deploy.gateway`, `deploy.bare_proxies`, `deploy.peers` and `serving.peers.nginx`.
"""

from __future__ import annotations

from pathlib import Path

ENDLESS = "keepalive_requests 1000000000;"  # a kept connection is never closed for its age


def configuration(folder: Path, main: str, http: str, *, name: str = "nginx") -> str:
    """A whole configuration: what goes to the top, and into `http`. The process's number is in `folder`/`name`.pid."""
    kinds = {"client_body": "body", "proxy": "proxy", "fastcgi": "fastcgi", "uwsgi": "uwsgi", "scgi": "scgi"}
    temporary = " ".join(f"{kind}_temp_path {folder}/{place};" for kind, place in kinds.items())
    return f"""
{main}
pid {folder}/{name}.pid;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  {temporary}
{http}
}}
"""
