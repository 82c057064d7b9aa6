"""RabbitMQ: PerfTest against both brokers, with classic and quorum queues."""

import argparse
import os
import re
import signal
import statistics
import time
from pathlib import Path

from . import install, measure, posthaste
from .measure import OURS
from .processes import BenchError, Process, free_port, listens

CLASSIC, QUORUM = "RabbitMQ classic", "RabbitMQ quorum"
SERVER = "/usr/lib/rabbitmq/bin/rabbitmq-server"
PRODUCERS, CONSUMERS, PREFETCH = 2, 2, 300
QUEUE = "bench"
DURABILITY = {
    ("persistent", OURS): "fsync before the confirm",
    ("persistent", CLASSIC): "written, not synced",
    ("persistent", QUORUM): "fsync before the confirm",
    ("transient", OURS): "none, in memory; drops beyond 64 MiB",
    ("transient", CLASSIC): "none, in memory; holds publishers back",
}
INTERVAL = re.compile(r"time ([\d.]+) s(.*)")


class RabbitMQ:
    """One RabbitMQ node in the foreground, with directories and ports of its own and Debian's settings."""

    def __init__(self, directory):
        self.directory = directory
        self.ports = {"amqp": free_port()}
        self.epmd, distribution = free_port(), free_port()
        (directory / "rabbitmq.conf").write_text(
            f"listeners.tcp.1 = 127.0.0.1:{self.ports['amqp']}\ndistribution.listener.interface = 127.0.0.1\n"
        )
        (directory / "plugins").write_text("[].\n")
        self.environment = {
            "HOME": str(directory),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(self.epmd),
            "RABBITMQ_NODENAME": "bench@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.ports["amqp"]),
            "RABBITMQ_DIST_PORT": str(distribution),
            "RABBITMQ_CONFIG_FILE": str(directory / "rabbitmq.conf"),
            "RABBITMQ_CONF_ENV_FILE": str(directory / "none"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(directory / "plugins"),
            "RABBITMQ_MNESIA_BASE": str(directory / "data"),
            "RABBITMQ_LOG_BASE": str(directory / "logs"),
            "RABBITMQ_PID_FILE": str(directory / "pid"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
        }
        self.process = Process([SERVER], directory / "log", self.environment, directory)
        self.process.wait_until(
            lambda: "completed with" in self.process.tail() and listens(self.ports["amqp"]),
            120,
            "completed startup",
        )

    def kill(self):
        """Ends it, and the Erlang port mapper that it started, which has left its process group."""
        self.process.kill()
        for entry in Path("/proc").iterdir():
            try:
                mapper = entry.name.isdigit() and (entry / "comm").read_text() == "epmd\n"
                if mapper and f"ERL_EPMD_PORT={self.epmd}\0".encode() in (entry / "environ").read_bytes():
                    os.kill(int(entry.name), signal.SIGKILL)
            except OSError:
                # It has ended by itself, or is another user's.
                continue


def perf_test(class_path, broker, kind, size, window, seconds):
    """The command line of PerfTest."""
    clients = ["-x", PRODUCERS, "-y", CONSUMERS, "-u", QUEUE, "-s", size, "-i", 1, "-z", int(seconds)]
    confirmed = ["-f", "persistent", "-ad", "false", "-c", window, "-q", PREFETCH]
    kinds = {"persistent": confirmed, "transient": ["--autoack"]}
    address = ["--uri", f"amqp://127.0.0.1:{broker.ports['amqp']}"]
    return ["java", "-cp", class_path, "com.rabbitmq.perf.PerfTest", *address, *clients, *kinds[kind]]


class Bench:
    """The rows of this comparison."""

    def __init__(self, run):
        self.run = run
        self.class_path = install.maven("perf-test")
        tool = install.jar_version(self.class_path, "perf-test")
        run.versions = {
            "RabbitMQ": install.debian_version("rabbitmq-server"),
            "PerfTest": tool,
            "Erlang": install.debian_version("erlang-base"),
            "Java": install.java_version(),
        }
        run.settings = {
            "load": f"PerfTest {tool}: {PRODUCERS} producers, {CONSUMERS} consumers with a prefetch of "
            f"{PREFETCH}, one queue; "
            "what is counted are messages received; client and broker share the machine",
            "RabbitMQ": "one node, Debian's package without configuration but ports and directories",
            OURS: "as it starts, without flags but for ports and directory; "
            "classic and quorum queues are the same, synced",
            "native client": "posthaste-bench amqp, the same numbers of clients and the same prefetch, in "
            "Rust: where PerfTest is "
            "the limit it leaves more of the machine to the broker",
            "p99": "from publish to consumer, at half of the rate that the better of RabbitMQ's queue "
            "types reached in "
            "the same row",
            "CPU": "processor time of the broker's processes per message",
        }

    def load(self, broker, kind, side, size, window, rate=None):
        """One run of PerfTest; figures of its steady seconds."""
        seconds = self.run.warm_up + self.run.seconds + 1
        command = perf_test(self.class_path, broker, kind, size, window, seconds)
        command += ["--quorum-queue"] if kind == "persistent" and side == QUORUM else []
        command += ["--rate", max(1, int(rate / PRODUCERS))] if rate else []
        log = broker.directory / f"perf-test-{time.monotonic_ns()}"
        process = Process(command, log)
        begun = time.monotonic()
        try:
            # Processor time of the steady seconds only.
            time.sleep(self.run.warm_up)
            cpu, at = broker.process.cpu_seconds(), time.monotonic()
            time.sleep(max(0, begun + self.run.warm_up + self.run.seconds - time.monotonic()))
            cpu, spent = broker.process.cpu_seconds() - cpu, time.monotonic() - at
            process.child.wait(120)
        finally:
            process.kill()
        found = steady(log.read_text(), self.run.warm_up)
        if process.child.returncode != 0 or not found:
            raise BenchError(f"PerfTest: {process.tail()}")
        found["cpu_us"] = cpu / spent * 1e6 / max(found["rate"], 1)
        return found

    def native(self, broker, kind, side, size, window):
        """The same with the load generator in Rust."""
        arguments = [
            "amqp",
            "--at",
            f"127.0.0.1:{broker.ports['amqp']}",
            "--connections",
            PRODUCERS,
            "--consumers",
            CONSUMERS,
            "--message-bytes",
            size,
            "--seconds",
            int(self.run.seconds),
            "--warm-up",
            int(self.run.warm_up),
        ]
        arguments += ["--transient"] if kind == "transient" else ["--windows", window, "--prefetch", PREFETCH]
        arguments += ["--quorum"] if side == QUORUM else []
        before = broker.process.cpu_seconds()
        found = posthaste.bench(*arguments, timeout=self.run.seconds + self.run.warm_up + 120)
        cpu = broker.process.cpu_seconds() - before
        rate = found["delivered_per_second"]
        total = max(rate, 1) * (int(self.run.seconds) + int(self.run.warm_up))
        return {"rate": rate, "published": found["acknowledged_per_second"], "cpu_us": cpu * 1e6 / total}

    def open(self, side, directory):
        """Starts one side's broker."""
        if side != OURS:
            return RabbitMQ(directory)
        broker = posthaste.Broker(directory)
        broker.directory = directory
        return broker

    def row(self, kind, size, window=None, native=False):
        """Throughput, then with PerfTest latency at half of RabbitMQ's."""
        run, found = self.run, self.run.found
        key = f"{kind}-{size}" + (f"-window-{window}" if window else "") + ("-native" if native else "")
        if not run.wants(key):
            return
        if kind == "persistent":
            peers = [CLASSIC, QUORUM]
            bar = {"ratio_min": {QUORUM: 5, CLASSIC: 2}, "p99_max": {CLASSIC: True, QUORUM: False}}
            title = f"persistent, {size} bytes, confirm window {window}, consumer acks"
        else:
            peers, bar, title = (
                [CLASSIC],
                {"ratio_min": {CLASSIC: 3}, "p99_max": {CLASSIC: False}},
                f"transient, {size} bytes, auto-ack",
            )
        if native:
            title, bar = f"{title}, native client", {"ratio_min": bar["ratio_min"]}
        found.row(key, title, "messages/s", bar, crossings=2)
        load = self.native if native else self.load

        def fastest(side):
            with run.directory("amqp") as directory:
                broker = self.open(side, directory)
                try:
                    before = journal(broker)
                    figures = load(broker, kind, side, size, window)
                    written = journal(broker)
                finally:
                    broker.kill()
                figures["peak_p50_ms"], figures["peak_p99_ms"] = (
                    figures.pop("p50_ms", None),
                    figures.pop("p99_ms", None),
                )
                if side == OURS and kind == "persistent":
                    each = (written[0] - before[0]) / max(written[1] - before[1], 1)
                    bare, sync = posthaste.floor(directory, broker, each, 5)
                    figures.update(floor_rate=bare, floor_share=figures["rate"] / bare, sync_p99_ms=sync)
                figures["mb"] = figures["rate"] * size / 1e6
                found.add(key, side, DURABILITY[kind, side], **figures)

        run.interleave(key, [OURS, *peers], fastest)
        if native:
            return
        half = int(max(found.median(key, peer, "rate") for peer in peers) / 2)

        def paced(side):
            with run.directory("amqp") as directory:
                broker = self.open(side, directory)
                try:
                    figures = self.load(broker, kind, side, size, window, half)
                finally:
                    broker.kill()
                found.add(
                    key,
                    side,
                    DURABILITY[kind, side],
                    p50_ms=figures["p50_ms"],
                    p99_ms=figures["p99_ms"],
                    paced_rate=half,
                )

        run.interleave(f"{key} at {half}/s", [OURS, *peers], paced)


def steady(said, warm_up):
    """Means of the seconds that PerfTest reported after its warm-up: rates, and latencies to the consumer."""
    seconds = []
    for at, rest in INTERVAL.findall(said):
        if float(at) <= warm_up:
            continue
        figures = {}
        for name in ("sent", "received"):
            value = re.search(rf"{name}: ([\d.]+) msg/s", rest)
            figures[name] = float(value.group(1)) if value else 0.0
        latency = re.search(r"consumer latency: ([\d/]+) (µs|ms)", rest)
        if latency:
            scale = 1000 if latency.group(2) == "µs" else 1
            _, figures["p50"], _, _, figures["p99"] = (
                float(value) / scale for value in latency.group(1).split("/")
            )
        seconds.append(figures)
    if not seconds:
        return None
    mean = lambda name: statistics.fmean([one[name] for one in seconds if name in one] or [0])
    found = {"rate": mean("received"), "published": mean("sent")}
    if any("p99" in one for one in seconds):
        found.update(p50_ms=mean("p50"), p99_ms=mean("p99"))
    return found


def journal(broker):
    """Bytes and messages that our journal has taken; None of another broker."""
    if not isinstance(broker, posthaste.Broker):
        return None
    metrics = broker.metrics()
    return metrics["posthaste_journal_bytes_total"], metrics["posthaste_published_total"]


def main():
    """The command."""
    parser = argparse.ArgumentParser(prog="bench/rabbitmq", description=__doc__)
    measure.arguments(parser)
    options = measure.defaults(parser.parse_args())
    install.debian("default-jre-headless", "maven", "rabbitmq-server")
    posthaste.build(options)
    run = measure.Run("rabbitmq", options)
    bench = Bench(run)
    for size in (1024, 100):
        for native in (False, True):
            for window in (100, 3000):
                run.attempt(bench.row, "persistent", size, window, native)
            run.attempt(bench.row, "transient", size, native=native)
    run.finish(posthaste.loopback())
