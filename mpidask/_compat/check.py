"""What a cluster needs of other packages' private API, and a clear error if it is missing."""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import operator
import platform

from mpidask._errors import MPIDaskError

#: What every cluster needs. What only some of them need is checked where it is used.
NEEDED = (
    "distributed.client:Client._get_computation_code",
    "distributed.client:Client._instances",
    "distributed.client:Client._send_to_scheduler",
    "distributed.comm.registry:backends",
    "distributed.comm.tcp:TLSBackend._connector_class",
    "distributed.core:Status.starting",
    "distributed.http.routing:RoutingApplication.add_application",
    "distributed.nanny:Nanny.instantiate",
    "distributed.scheduler:Scheduler.client_desires_keys",
    "distributed.scheduler:TaskState.run_id",
    "multiprocessing.spawn:get_preparation_data",
    "threading:_register_atexit",
    "tornado.routing:RuleRouter",
)


@functools.cache
def check_private_api() -> None:
    """Raise `MPIDaskError` if something that every cluster needs is missing."""
    require(*NEEDED)


def require(*names: str) -> None:
    """Raise `MPIDaskError` if one of some names, ``"module:Class.attribute"``, is missing."""
    for name in names:
        module, _, attribute = name.partition(":")
        try:
            operator.attrgetter(attribute)(importlib.import_module(module))
        except (ImportError, AttributeError) as error:
            raise MPIDaskError(
                f"{_package(module)} has no {module}.{attribute}, which mpidask "
                f"{importlib.metadata.version('mpidask')} relies on: install a version that it "
                "supports, or a newer mpidask"
            ) from error


def _package(module: str) -> str:
    name = module.partition(".")[0]
    try:
        return f"{name} {importlib.metadata.version(name)}"
    except importlib.metadata.PackageNotFoundError:  # of the standard library
        return f"Python {platform.python_version()}"
