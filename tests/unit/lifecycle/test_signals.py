"""Signals, handled for the time of one cluster."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from mpidask._lifecycle import signals
from mpidask._threads import raise_in_main_thread


def test_only_the_first_signal_acts():
    interrupt, acted = signals.Interrupt(), []
    interrupt.act(acted.append)
    interrupt(signal.SIGTERM)
    interrupt(signal.SIGINT)
    interrupt(signal.SIGTERM)
    assert acted == [signal.SIGTERM]
    assert interrupt.signum == signal.SIGTERM


def test_signal_counts_as_sent_while_its_action_runs():
    interrupt, seen = signals.Interrupt(), []

    def action(signum):
        seen.append(interrupt.signum)
        interrupt(signum)

    interrupt.act(action)
    interrupt(signal.SIGINT)
    assert seen == [signal.SIGINT]


def test_signal_that_comes_too_early_is_not_lost():
    interrupt, acted = signals.Interrupt(), []
    interrupt(signal.SIGTERM)
    interrupt.act(acted.append)
    assert acted == [signal.SIGTERM]


def test_disarmed_signals_do_nothing():
    interrupt, acted = signals.Interrupt(), []
    interrupt.act(acted.append)
    interrupt.disarm()
    interrupt(signal.SIGTERM)
    assert acted == []
    assert interrupt.signum is None


@pytest.fixture
def handlers():
    """Give the program the handlers Python starts with, and restore the tests' own."""
    before = {signum: signal.getsignal(signum) for signum in signals.FATAL}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    for signum, handler in before.items():
        signal.signal(signum, handler)


def current():
    return [signal.getsignal(signum) for signum in signals.FATAL]


@pytest.mark.parametrize("defer", [True, False])
def test_signals_are_handled_and_handlers_restored(handlers, defer):
    before, received = current(), []
    with signals.handled(received.append, defer_to_user=defer):
        for signum in (*signals.FATAL, signal.SIGTERM):
            signal.raise_signal(signum)
    assert received == [signal.SIGINT, signal.SIGTERM, signal.SIGTERM]
    assert current() == before


def test_handlers_are_restored_after_an_error(handlers):
    before = current()
    handled = signals.handled(signals.raise_as_python_would, defer_to_user=True)
    with pytest.raises(KeyboardInterrupt), handled:
        signal.raise_signal(signal.SIGINT)
    assert current() == before


@pytest.mark.parametrize("defer", [True, False])
def test_handler_of_the_program_comes_first_on_its_rank(handlers, defer):
    own, ours = [], []

    def handler(signum, frame):
        own.append(signum)

    signal.signal(signal.SIGTERM, handler)
    with signals.handled(ours.append, defer_to_user=defer):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
    if defer:
        assert (own, ours) == ([signal.SIGTERM], [signal.SIGINT])
    else:
        assert (own, ours) == ([], [signal.SIGINT, signal.SIGTERM])
    assert current() == [signal.default_int_handler, handler]


def test_a_handler_that_the_program_installs_meanwhile_stays(handlers):
    before = current()
    with (
        signals.handled(lambda signum: None, defer_to_user=True),
        signals.handled(lambda signum: None, defer_to_user=True),
    ):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    assert current() == [before[0], signal.SIG_IGN]


def test_ignored_signals_stay_ignored(handlers):
    """As in a program started with nohup."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    received = []
    with signals.handled(received.append, defer_to_user=True):
        signal.raise_signal(signal.SIGINT)
    assert received == []
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_other_threads_leave_handlers_alone(handlers):
    before, inside = current(), []

    def program():
        with signals.handled(lambda signum: None, defer_to_user=False):
            inside.extend(current())

    thread = threading.Thread(target=program)
    thread.start()
    thread.join()
    assert inside == before


def test_signal_is_raised_in_the_main_thread(handlers):
    """Also from another thread, and it ends a blocking call."""
    reader, writer = os.pipe()
    sender = threading.Timer(0.1, raise_in_main_thread, [signal.SIGTERM])
    late = threading.Timer(30, os.write, [writer, b"too late"])

    def block():
        sender.start()
        late.start()
        os.read(reader, 1)

    handled = signals.handled(signals.raise_as_python_would, defer_to_user=False)
    with pytest.raises(SystemExit) as caught, handled:
        block()
    late.cancel()
    late.join()
    assert caught.value.code == 143
    os.close(writer)
    assert os.read(reader, 1) == b""  # the call was ended by nothing else
    os.close(reader)


def test_signals_are_raised_as_python_would():
    with pytest.raises(KeyboardInterrupt):
        signals.raise_as_python_would(signal.SIGINT)
    with pytest.raises(SystemExit) as caught:
        signals.raise_as_python_would(signal.SIGTERM)
    assert caught.value.code == 128 + signal.SIGTERM


def test_a_forked_child_has_the_handlers_that_were_there_before():
    former = [signal.getsignal(signum) for signum in signals.FATAL]
    with (
        signals.handled(lambda signum: None, defer_to_user=False),
        signals.handled(lambda signum: None, defer_to_user=False),
    ):
        child = os.fork()
        if child == 0:
            now = [signal.getsignal(signum) for signum in signals.FATAL]
            os._exit(0 if now == former else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert [signal.getsignal(signum) for signum in signals.FATAL] != former
    assert [signal.getsignal(signum) for signum in signals.FATAL] == former
