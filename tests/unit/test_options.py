"""The options: defaults, precedence, and what each accepts."""

from __future__ import annotations

import dataclasses
import inspect
import logging
import os
from pathlib import Path

import dask
import numpy as np
import pytest

from mpidask import _options as options
from mpidask._options import Options

FIELDS = {field.name: field for field in dataclasses.fields(Options)}


class FakeCommunicator:
    def Idup(self): ...
    def Is_inter(self):
        return False


def resolve(**given):
    return Options.resolve(given)


def test_defaults():
    assert dataclasses.asdict(resolve()) == {
        "comm": None,
        "exit": True,
        "scheduler_rank": 0,
        "client_rank": 1,
        "exclusive_workers": True,
        "interface": None,
        "host": None,
        "protocol": None,
        "security": True,
        "transport": "auto",
        "scheduler_port": 0,
        "scheduler_file": None,
        "trust_scheduler_file": False,
        "address": None,
        "mpi_task_grace": 30.0,
        "death_timeout": None,
        "reconnect": True,
        "scheduler_options": {},
        "dashboard": True,
        "dashboard_address": ":8787",
        "dashboard_token": True,
        "nthreads": "auto",
        "memory_limit": "auto",
        "local_directory": None,
        "worker_class": "distributed.Worker",
        "worker_options": {},
        "name": "mpidask",
        "nanny": False,
        "wait_for_workers": True,
        "startup_timeout": 300.0,
        "shutdown_timeout": 30.0,
        "performance_report": None,
        "progress": None,
        "summary": None,
        "log_level": logging.WARNING,
    }


def test_options_stay_as_they_are():
    with pytest.raises(dataclasses.FrozenInstanceError):
        resolve().nthreads = 2


def test_each_use_has_dicts_of_its_own():
    resolve().worker_options["resources"] = {"GPU": 1}
    assert resolve().worker_options == {}
    mine = {"resources": {"GPU": 1}}
    resolve(worker_options=mine).worker_options.clear()
    assert mine


@pytest.mark.parametrize("name", FIELDS)
def test_every_option_is_described(name):
    metadata = FIELDS[name].metadata
    assert metadata["help"] and not metadata["help"].endswith(".")
    assert metadata["group"]
    assert metadata["kind"].description


# -- Where a value comes from. -------------------------------------------------------


def test_argument_beats_configuration_beats_default():
    assert resolve().nthreads == "auto"
    with dask.config.set({"mpidask.nthreads": 3}):
        assert resolve().nthreads == 3
        assert resolve(nthreads=5).nthreads == 5
        assert resolve(nthreads="auto").nthreads == "auto"
    assert resolve().nthreads == "auto"


@pytest.mark.parametrize("key", ["wait-for-workers", "wait_for_workers"])
def test_hyphens_in_configuration(key):
    with dask.config.set({f"mpidask.{key}": 2}):
        assert resolve().wait_for_workers == 2


def test_configuration_from_the_environment():
    config = dask.config.collect_env(
        {"DASK_MPIDASK__NTHREADS": "4", "DASK_MPIDASK__STARTUP_TIMEOUT": "2 min"}
    )
    with dask.config.set(config):
        assert resolve().nthreads == 4
        assert resolve().startup_timeout == 120


def test_configuration_is_checked_too():
    with dask.config.set({"mpidask.nthreads": 0}):
        with pytest.raises(ValueError, match="option nthreads=0 must be 1 or more"):
            resolve()
        assert resolve(nthreads=1).nthreads == 1


def test_communicator_is_no_matter_of_configuration():
    with (
        dask.config.set({"mpidask.comm": FakeCommunicator()}),
        pytest.raises(TypeError, match="no option 'comm' in Dask's configuration") as caught,
    ):
        resolve()
    assert " comm," not in str(caught.value)


@pytest.mark.parametrize(
    "name, hint",
    [
        ("worker_name", "did you mean 'name'?"),
        ("scheduler_address", "did you mean 'address'?"),
        ("n_workers", "the number of ranks decides"),
        ("num_workers", "the number of ranks decides"),
        ("threads_per_worker", "did you mean 'nthreads'?"),
        ("memory", "did you mean 'memory_limit'?"),
        ("silence_logs", "did you mean 'log_level'?"),
    ],
)
def test_names_of_other_projects(name, hint):
    with pytest.raises(TypeError) as caught:
        resolve(**{name: 1})
    assert f"no option {name!r} ({hint}" in str(caught.value)


def test_what_is_meant_exists():
    assert set(options._ELSEWHERE.values()) <= set(FIELDS)
    assert not {*options._ELSEWHERE, *options._NUMBERS} & set(FIELDS)


def test_unknown_name():
    with pytest.raises(TypeError) as caught:
        resolve(dashbord=True)
    message = str(caught.value)
    assert "no option 'dashbord' (did you mean 'dashboard'?)" in message
    assert all(name in message for name in FIELDS)
    assert "configuration" not in message


def test_unknown_name_like_no_other():
    with pytest.raises(TypeError, match="no option 'xyzzy'; its options are address, client_rank"):
        resolve(xyzzy=1)


def test_unknown_name_in_configuration():
    message = r"'nthread' in Dask's configuration \(mpidask:\).*mean 'nthreads'"
    with dask.config.set({"mpidask.nthread": 1}), pytest.raises(TypeError, match=message):
        resolve()


# -- What each option accepts. -------------------------------------------------------


def accepted_cases():
    communicator = FakeCommunicator()
    yield "comm", communicator, communicator
    for name in (
        "exit",
        "exclusive_workers",
        "trust_scheduler_file",
        "dashboard",
        "dashboard_token",
        "nanny",
        "reconnect",
        "trust_scheduler_file",
    ):
        yield name, False, False
        yield name, True, True
    yield "scheduler_rank", 7, 7
    yield "client_rank", 0, 0
    yield "interface", "ib0", "ib0"
    yield "address", "tcp://10.0.0.1:8786", "tcp://10.0.0.1:8786"
    yield "mpi_task_grace", "2 min", 120.0
    yield "death_timeout", None, None
    yield "death_timeout", "1 min", 60.0
    yield "progress", None, None
    yield "progress", "5 min", 300.0
    yield "host", "10.0.0.1", "10.0.0.1"
    yield "protocol", "tls", "tls"
    yield "protocol", "wss", "wss"
    yield "security", False, False
    for transport in ("auto", "mpi", "socket"):
        yield "transport", transport, transport
    yield "scheduler_port", 0, 0
    yield "scheduler_port", 65535, 65535
    yield "scheduler_options", {"idle_timeout": "1h"}, {"idle_timeout": "1h"}
    yield "worker_options", {"resources": {"GPU": 1}}, {"resources": {"GPU": 1}}
    for name in ("scheduler_file", "local_directory", "performance_report", "summary"):
        yield name, None, None
        yield name, "~/x", os.path.expanduser("~/x")
        yield name, Path("x"), os.path.abspath("x")
    yield "dashboard_address", "localhost:0", "localhost:0"
    yield "dashboard_address", 8787, ":8787"
    yield "nthreads", "auto", "auto"
    yield "nthreads", 1, 1
    for memory in ("auto", "4 GiB", 0.5, 0, 10**9, None):
        yield "memory_limit", memory, memory
    yield "worker_class", "dask_cuda.CUDAWorker", "dask_cuda.CUDAWorker"
    yield "worker_class", dict, dict
    yield "name", "job", "job"
    for wait in (True, False, 0, 3):
        yield "wait_for_workers", wait, wait
    for text, seconds in {
        "5 min": 300,
        "5min": 300,
        " 5 mins ": 300,
        "5 minutes": 300,
        "0.5 min": 30,
        "5 m": 300,
        "1h": 3600,
        "100 ms": 0.1,
        "90": 90,
        90: 90,
        0.25: 0.25,
    }.items():
        yield "startup_timeout", text, float(seconds)
        yield "shutdown_timeout", text, float(seconds)
    yield "log_level", "info", logging.INFO
    yield "log_level", "ERROR", logging.ERROR
    yield "log_level", 5, 5
    integer = np.int64(3)  # what comes out of an array
    for name in ("scheduler_rank", "client_rank", "scheduler_port", "nthreads"):
        yield name, integer, 3
    yield "wait_for_workers", integer, 3
    yield "memory_limit", integer, 3
    yield "shutdown_timeout", integer, 3.0
    yield "dashboard_address", integer, ":3"


@pytest.mark.parametrize(("name", "value", "result"), list(accepted_cases()))
def test_accepted(name, value, result):
    found = getattr(resolve(**{name: value}), name)
    assert found == result
    assert isinstance(found, type(result))


def test_security_object():
    from distributed import Security

    security = Security(require_encryption=True)
    assert resolve(security=security).security is security


def rejected_cases():
    whole = "must be a whole number"
    yield "comm", object(), TypeError, "must be an intracommunicator"
    yield "comm", 3, TypeError, "must be an intracommunicator"
    for name in (
        "exit",
        "exclusive_workers",
        "trust_scheduler_file",
        "dashboard",
        "dashboard_token",
        "nanny",
        "reconnect",
        "trust_scheduler_file",
    ):
        for value in (1, 0, None, "yes"):
            yield name, value, TypeError, "must be True or False"
    for name in ("scheduler_rank", "client_rank", "scheduler_port"):
        for value in ("1", 1.0, True, None):
            yield name, value, TypeError, whole
        yield name, -1, ValueError, "must be 0 or more"
    yield "scheduler_port", 65536, ValueError, "must be a port"
    for name in ("interface", "host", "protocol", "address"):
        for value in ("", 3, True):
            yield name, value, TypeError, "must be a non-empty string, or None"
    for value in ("yes", None, 1, {}):
        yield "security", value, TypeError, "must be True, False or a distributed.Security"
    for name in ("scheduler_options", "worker_options"):
        for value in (None, [], "a=1", {1: 2}):
            yield name, value, TypeError, "must be a dict with string keys"
    yield "worker_options", {"name": "w"}, ValueError, "use the option 'name'"
    for name in ("scheduler_file", "local_directory", "performance_report", "summary"):
        for value in ("", 3, True):
            yield name, value, TypeError, "must be a path, or None"
    for value in (None, "", True, 1.5):
        yield "dashboard_address", value, TypeError, "must be a non-empty string"
    yield "dashboard_address", 65536, ValueError, "must be a port"
    for value in ("4", "all", 2.0, True, None):
        yield "nthreads", value, TypeError, whole + ", or 'auto'"
    yield "nthreads", 0, ValueError, "must be 1 or more"
    yield "nthreads", -2, ValueError, "must be 1 or more"
    for value in ([], True):
        yield "memory_limit", value, TypeError, "must be a number of bytes"
    for value in ("lots", "", -1, float("nan"), float("inf"), "4 parsecs"):
        yield "memory_limit", value, ValueError, "must be a number of bytes"
    for value in (None, 3, ""):
        yield "worker_class", value, TypeError, "must be"
    for value in (None, "", 3):
        yield "name", value, TypeError, "must be a non-empty string"
    for value in (None, "all", 1.0):
        yield "wait_for_workers", value, TypeError, "must be True, False or a number"
    yield "transport", "tcp", ValueError, "must be 'auto', 'mpi' or 'socket'"
    yield "transport", None, ValueError, "must be 'auto', 'mpi' or 'socket'"
    yield "wait_for_workers", -1, ValueError, "must be 0 or more"
    for name in ("startup_timeout", "shutdown_timeout"):
        for value in (None, True, [5]):
            yield name, value, TypeError, "must be a time in seconds"
        for value in ("", "soon", "5 parsecs", "1 min 5 s"):
            yield name, value, ValueError, "must be a time in seconds"
        yield name, 0, ValueError, "must be more than 0"
        yield name, "0 s", ValueError, "must be more than 0"
        for value in (-1, float("inf"), float("nan")):
            yield name, value, ValueError, "must be"
    yield "mpi_task_grace", None, TypeError, "must be a time in seconds"
    yield "death_timeout", [5], TypeError, "must be a time in seconds"
    yield "progress", True, TypeError, "must be a time in seconds or a string such as '5 min', or"
    yield "progress", "often", ValueError, "must be a time in seconds"
    yield "progress", 0, ValueError, "must be more than 0"
    yield "death_timeout", "soon", ValueError, "must be a time in seconds"
    for value in ("loud", None, True, 1.5):
        yield "log_level", value, ValueError, "must be a logging level"


@pytest.mark.parametrize(("name", "value", "error", "message"), list(rejected_cases()))
def test_rejected(name, value, error, message):
    with pytest.raises(error) as caught:
        resolve(**{name: value})
    assert type(caught.value) is error
    assert str(caught.value).startswith(f"option {name}={value!r} ")
    assert message in str(caught.value)
    assert caught.value.__suppress_context__


def test_every_option_is_tried():
    assert {name for name, *_ in accepted_cases()} == set(FIELDS)
    assert {name for name, *_ in rejected_cases()} == set(FIELDS)


# -- Options that contradict each other. ---------------------------------------------


@pytest.mark.parametrize("protocol", ["tcp", "ucx", "ws", "inproc"])
def test_credentials_need_a_protocol_that_carries_them(protocol):
    with pytest.raises(ValueError, match=f"protocol '{protocol}' can't carry .*security=False"):
        resolve(protocol=protocol)
    assert resolve(protocol=protocol, security=False).protocol == protocol


def test_interface_and_host():
    with pytest.raises(ValueError, match="give interface or host, not both"):
        resolve(interface="ib0", host="10.0.0.1")


def test_contradiction_with_the_configuration():
    with dask.config.set({"mpidask.interface": "ib0"}):
        with pytest.raises(ValueError, match="interface or host"):
            resolve(host="10.0.0.1")
        assert resolve(host="10.0.0.1", interface=None).host == "10.0.0.1"


def test_options_need_names():
    kinds = {parameter.kind for parameter in inspect.signature(Options).parameters.values()}
    assert kinds == {inspect.Parameter.KEYWORD_ONLY}
