"""How to reach a cluster."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Cluster:
    """A scheduler that runs.

    Attributes
    ----------
    address : str
        Where the scheduler listens.
    security : distributed.Security, optional
        The credentials to come in with.
    dashboard : str, optional
        The link of its dashboard.
    tunnel : str, optional
        The command that makes this link work outside the batch job.
    dashboard_open_to : str, optional
        Who can look at the dashboard; None if its link has a secret.
    http_prefix : str, optional
        What the paths of all web pages begin with. It may be a secret, and is not known of
        the cluster of another job.
    """

    address: str
    security: Any = None
    dashboard: str | None = None
    tunnel: str | None = None
    dashboard_open_to: str | None = "everyone who can reach it"
    http_prefix: str | None = None
