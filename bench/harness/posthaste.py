"""Our side: the release binary, built from this tree."""

import json
import os
import re
import subprocess
import time
import urllib.error
import urllib.request

from . import machine
from .processes import BenchError, Process, output

LISTENERS = ("kafka", "amqp", "mqtt", "http")


BUILD = {}


def build(options):
    """Builds broker and load generator, optimized; a broker that the options name is used instead."""
    if options.broker:
        BUILD["posthaste"] = os.path.abspath(options.broker)
    command = [
        os.environ.get("CARGO", "cargo"),
        "build",
        "--release",
        "--quiet",
        "-p",
        "posthaste",
        "-p",
        "posthaste-bench",
    ]
    if subprocess.run(command, cwd=machine.ROOT, check=False).returncode != 0:
        raise BenchError("the broker does not build")


def program(name):
    """A built program."""
    return BUILD.get(name, machine.target() / "release" / name)


def bench(*arguments, timeout=None):
    """Runs the load generator and returns its JSON."""
    return json.loads(output([program("posthaste-bench"), "--json", *map(str, arguments)], timeout=timeout))


class Broker:
    """A running broker on a data directory; all listeners on free ports."""

    flags = []

    def __init__(self, directory, log=None):
        self.data = directory / "data"
        self.log = log or directory / "log"
        self.ports = {}
        self.start()

    def start(self):
        """Starts it and waits until it is ready; returns the seconds that took."""
        begun = time.monotonic()
        before = self.log.stat().st_size if self.log.exists() else 0
        self.process = Process(
            [
                program("posthaste"),
                "serve",
                "--data",
                self.data,
                "--log",
                "warn",
                *self.flags,
                *[f"--listen={protocol}=127.0.0.1:0" for protocol in LISTENERS],
            ],
            self.log,
        )
        said = lambda: self.log.read_text(errors="replace")[before:]
        self.process.wait_until(lambda: "\nready\n" in "\n" + said(), 600, "ready")
        self.ports = {
            protocol: int(port)
            for protocol, port in re.findall(r"^listening (\w+) 127\.0\.0\.1:(\d+)$", said(), re.MULTILINE)
        }
        return time.monotonic() - begun

    def metrics(self):
        """The samples of /metrics by name, without those that have labels."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.ports['http']}/metrics", timeout=60) as answer:
            lines = answer.read().decode().splitlines()
        return {
            name: float(value)
            for name, value in (line.rsplit(" ", 1) for line in lines if line and line[0] != "#")
            if "{" not in name
        }

    def ready(self, queue):
        """Messages of a queue that wait for a consumer."""
        with urllib.request.urlopen(
            f"http://127.0.0.1:{self.ports['http']}/v1/queues/{queue}", timeout=60
        ) as answer:
            return json.load(answer)["ready"]

    def post(self, path, body):
        """A request to the administration API that must succeed."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.ports['http']}{path}",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
            method="POST",
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                answer.read()
        except urllib.error.HTTPError as error:
            raise BenchError(f"{path}: {error.read().decode()}") from error

    def stop(self):
        """An orderly stop."""
        self.process.end()

    def kill(self):
        """kill -9."""
        self.process.kill()


def loopback():
    """Bytes a second that a bare copy over TCP on loopback carries."""
    return bench("loopback", "--seconds", 3)["bytes_per_second"]


def floor(directory, broker, journal_bytes_per_message, seconds):
    """The bare disk with the commits that a killed broker's journal holds: messages a second that it could
    carry, and milliseconds that 99 % of its syncs took at most."""
    found = bench("floor", "--data", broker.data, "--scratch", directory, "--seconds", str(seconds))
    per_second = found["bytes_per_second"] / journal_bytes_per_message if journal_bytes_per_message else None
    return per_second, found["p99_ms"]
