"""TLS credentials of clusters: made, found by clients of this process, and kept in files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_NAMES = (
    "tls_ca_file",
    *(
        f"tls_{role}_{part}"
        for role in ("client", "scheduler", "worker")
        for part in ("cert", "key")
    ),
)
#: Those of the clusters that this process is connected to, by address.
of_clusters: dict[str, Any] = {}


def make_security(option: Any) -> Any:
    """Return the `distributed.Security` that an option asks for, or None."""
    from distributed import Security

    return Security.temporary() if option is True else option or None


def credentials_for(connection: Mapping[str, Any]) -> Any:
    """Return the credentials of the cluster at an address, for a bare `distributed.Client()`.

    Dask's configuration names this function as its ``distributed.client.security-loader``, rather
    than hold the credentials: it is dumped, logged and shown.
    """
    return of_clusters.get(connection["address"])


def to_json(security: Any) -> dict[str, str | None] | None:
    """Return credentials as they are kept in a scheduler file; None if there are none."""
    credentials = {name: getattr(security, name, None) for name in _NAMES}
    return credentials if any(credentials.values()) else None


def from_json(credentials: Mapping[str, str] | None) -> Any:
    """Undo `to_json`; raise TypeError, ValueError or OSError if they are broken."""
    if credentials is None:
        return None
    from distributed import Security

    security = Security(require_encryption=True, **credentials)
    security.get_connection_args("client")  # raises ssl.SSLError if they are broken
    return security
