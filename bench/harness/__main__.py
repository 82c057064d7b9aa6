"""`python3 -m harness COMMAND …`: what the commands in `bench/` start."""

import importlib
import signal
import sys

from .processes import BenchError


def main():
    """Runs a command; what it started is ended also when it is stopped or fails."""
    name = sys.argv.pop(1)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        importlib.import_module(f"harness.{name}").main()
    except BenchError as error:
        sys.exit(f"bench/{name}: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


main()
