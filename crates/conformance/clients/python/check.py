"""What every Python client program shares: named checks, one line each, and the addresses from the command line.

A program is called as `program.py [kafka=HOST:PORT] [amqp=HOST:PORT] [mqtt=HOST:PORT] [http=HOST:PORT]`. Each check
prints `ok NAME` or `not ok NAME: reason`; the process exits with 1 when any check failed.
"""

import os
import signal
import sys
import time
import traceback
import uuid

CHECK_SECONDS_MAX = 90


class CheckTimeout(Exception):
    """A check ran longer than CHECK_SECONDS_MAX."""


def _on_alarm(_signum, _frame):
    raise CheckTimeout(f"no result after {CHECK_SECONDS_MAX} s")


class Checks:
    """Runs named checks in the order in which they are written down."""

    def __init__(self, protocol):
        addresses = dict(argument.split("=", 1) for argument in sys.argv[1:])
        if protocol is not None and protocol not in addresses:
            sys.exit(f"usage: {sys.argv[0]} {protocol}=HOST:PORT")
        self.addresses = addresses
        self.address = addresses.get(protocol)
        self.failed = 0
        # Runs before each check: what a failed check may have left broken.
        self.before = lambda: None
        self.ran = 0
        signal.signal(signal.SIGALRM, _on_alarm)

    def case(self, name):
        """Decorator that runs the function at once, as the check `name`."""

        def run(function):
            self.ran += 1
            signal.alarm(CHECK_SECONDS_MAX)
            try:
                self.before()
                function()
            except Exception as error:  # noqa: BLE001 - every failure of a check is a result
                self.failed += 1
                reason = f"{type(error).__name__}: {error}".replace("\n", " ")
                print(f"not ok {name}: {reason}", flush=True)
                traceback.print_exc(file=sys.stderr)
            else:
                print(f"ok {name}", flush=True)
            finally:
                signal.alarm(0)
            return function

        return run

    def finish(self):
        """Ends the process with the result of all checks."""
        if self.ran == 0:
            print("not ok program: no check ran", flush=True)
        sys.stdout.flush()
        # Client libraries keep background threads; they must not hold the result back.
        os._exit(1 if self.failed or self.ran == 0 else 0)

    @property
    def can_restart(self):
        """True when the harness can kill and restart the broker under test."""
        return os.environ.get("CONFORMANCE_CAN_RESTART") == "1"

    def restart_broker(self):
        """Has the harness kill the broker with SIGKILL and start it again on the same directory and ports."""
        print("restart-broker", flush=True)
        answer = sys.stdin.readline().strip()
        require(answer == "restarted", f"the broker did not restart: {answer!r}")


def host_port(address):
    """`HOST:PORT` as a pair."""
    host, port = address.rsplit(":", 1)
    return host, int(port)


def unique(prefix):
    """A name that no other run uses."""
    return f"{prefix}-{uuid.uuid4().hex[:10]}"


def require(condition, reason):
    """Fails the check with `reason` unless `condition` holds."""
    if not condition:
        raise AssertionError(reason)


def equal(actual, expected, what="value"):
    """Fails the check unless the two are equal."""
    if actual != expected:
        raise AssertionError(f"{what}: expected {shorten(expected)}, was {shorten(actual)}")


def shorten(value):
    text = repr(value)
    return text if len(text) <= 300 else f"{text[:300]}... ({len(text)} characters)"


def wait_until(condition, what, seconds=30.0, step=None):
    """Runs `step` until `condition` holds; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not reached in {seconds:g} s")
        if step is None:
            time.sleep(0.02)
        else:
            step()
