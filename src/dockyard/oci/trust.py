"""Whom a registry's TLS certificate is trusted by: where Docker, OpenSSL and this machine keep certificates.

The machine's own authorities (or those of SSL_CERT_FILE and SSL_CERT_DIR), those of the file that DOCKYARD_CA names,
and for one registry those in `certs.d/HOST[:PORT]/*.crt`, where a `*.cert` with its `*.key` tells the registry who we
are.
Called by `transport`. Source: Docker's "Verify repository client with certificates".
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Mapping
from pathlib import Path

from dockyard.errors import RegistryError

CA_VARIABLE = "DOCKYARD_CA"
_REMEDY = "It must hold certificates in PEM form (-----BEGIN CERTIFICATE-----)."


def tls_context(host: str, environment: Mapping[str, str]) -> ssl.SSLContext:
    """TLS for `host[:port]`; RegistryError naming the file when a certificate cannot be read."""
    context = ssl.create_default_context()
    if named := environment.get(CA_VARIABLE):
        _trust(context, Path(named).expanduser())
    for folder in _folders(host, environment):
        for file in sorted(folder.glob("*.crt")):
            _trust(context, file)
        for file in sorted(folder.glob("*.cert")):
            _show(context, file)
    return context


def _folders(host: str, environment: Mapping[str, str]) -> Iterator[Path]:
    """The folders for one registry: Docker's, those of a rootless Docker, and Podman's."""
    home = Path(environment.get("HOME", "/nonexistent"))
    settings = Path(environment.get("XDG_CONFIG_HOME") or home / ".config")
    roots = (Path("/etc/docker"), Path("/etc/containers"), settings / "docker", settings / "containers")
    for root in roots:
        if (root / "certs.d" / host).is_dir():
            yield root / "certs.d" / host


def _trust(context: ssl.SSLContext, file: Path) -> None:
    try:
        context.load_verify_locations(cafile=file)
    except (OSError, ssl.SSLError) as error:
        raise RegistryError(f"the certificates in {file} cannot be read: {error}", remedy=_REMEDY) from error


def _show(context: ssl.SSLContext, file: Path) -> None:
    key = file.with_suffix(".key")
    try:
        context.load_cert_chain(file, key)
    except (OSError, ssl.SSLError) as error:
        raise RegistryError(
            f"the client certificate {file} with {key} cannot be used: {error}", remedy=_REMEDY
        ) from error
