"""Mosquitto: one load generator for both brokers, `posthaste-bench mqtt`."""

import argparse

from . import install, measure, posthaste
from .measure import OURS
from .processes import Process, free_port, listens

PLAIN, PERSISTENT = "Mosquitto", "Mosquitto, persistence"
MESSAGE_BYTES = 100
# (publishers, subscribers of each, title)
SHAPES = {"pairs": (16, 1, "16 pairs"), "fan-out": (1, 50, "1 publisher to 50 subscribers")}
# Nothing is dropped and nobody waits for a window, which its defaults would make it do under load.
CONFIGURATION = """\
listener {port} 127.0.0.1
allow_anonymous true
set_tcp_nodelay true
max_inflight_messages 0
max_queued_messages 0
"""
PERSISTENCE = """\
persistence true
persistence_location {directory}/
autosave_interval 1800
"""
DURABILITY = {
    (0, OURS): "none (QoS 0)",
    (0, PLAIN): "none (QoS 0)",
    (1, OURS): "fsync before PUBACK, persistent sessions",
    (1, PLAIN): "none, persistent sessions in memory",
    (1, PERSISTENT): "saved every 30 minutes and at the end",
}


class Mosquitto:
    """A Mosquitto in the foreground."""

    def __init__(self, directory, persistent):
        self.ports = {"mqtt": free_port()}
        configuration = CONFIGURATION.format(port=self.ports["mqtt"])
        if persistent:
            configuration += PERSISTENCE.format(directory=directory)
        # As root it would become the user mosquitto, who cannot write here.
        (directory / "mosquitto.conf").write_text(configuration + "user root\n")
        self.process = Process(["mosquitto", "-c", directory / "mosquitto.conf"], directory / "log")
        self.process.wait_until(lambda: listens(self.ports["mqtt"]), 30, "listener")

    def kill(self):
        """kill -9."""
        self.process.kill()


class Bench:
    """The rows of this comparison."""

    def __init__(self, run):
        self.run = run
        run.versions = {PLAIN: install.debian_version("mosquitto")}
        run.settings = {
            "load": f"posthaste-bench mqtt, MQTT 3.1.1, {MESSAGE_BYTES} bytes a message, two threads; a "
            "publisher waits while 200 "
            "of its messages have not reached every subscriber; what is counted are messages that arrive at "
            "subscribers; client and broker share the machine",
            PLAIN: "Debian's package; TCP_NODELAY, no limits to messages in flight and queued",
            OURS: "as it starts, without flags but for ports and directory",
            "p99": "from publisher to subscriber, at half of the rate that Mosquitto without persistence "
            "reached in the "
            "same row",
            "CPU": "processor time of the broker's process per message that arrived",
        }

    def open(self, side, directory):
        """Starts one side's broker."""
        return posthaste.Broker(directory) if side == OURS else Mosquitto(directory, side == PERSISTENT)

    def load(self, broker, shape, qos, rate=None):
        """One run of the load generator."""
        publishers, subscribers, _ = SHAPES[shape]
        arguments = [
            "mqtt",
            "--at",
            f"127.0.0.1:{broker.ports['mqtt']}",
            "--publishers",
            publishers,
            "--subscribers",
            subscribers,
            "--qos",
            qos,
            "--message-bytes",
            MESSAGE_BYTES,
            "--seconds",
            int(self.run.seconds),
            "--warm-up",
            int(self.run.warm_up),
        ]
        arguments += ["--persistent"] if qos else []
        arguments += ["--rate", rate] if rate else []
        before = broker.process.cpu_seconds()
        found = posthaste.bench(*arguments, timeout=self.run.seconds + self.run.warm_up + 120)
        cpu = broker.process.cpu_seconds() - before
        rate = found["delivered_per_second"]
        return {
            "rate": rate,
            "p50_ms": found["p50_ms"],
            "p99_ms": found["p99_ms"],
            "lost": found["lost"],
            "cpu_us": cpu * 1e6 / (max(rate, 1) * (int(self.run.seconds) + int(self.run.warm_up))),
        }

    def row(self, shape, qos):
        """Throughput, then latency at half of Mosquitto's."""
        run, found = self.run, self.run.found
        publishers, subscribers, title = SHAPES[shape]
        key = f"{shape}-qos-{qos}"
        if not run.wants(key):
            return
        peers = [PLAIN, PERSISTENT] if qos else [PLAIN]
        found.row(
            key,
            f"QoS {qos}, {title}",
            "messages/s",
            {"ratio_min": {peer: 2 for peer in peers}, "p99_max": {peer: qos == 1 for peer in peers}},
            crossings=1 + 1 / subscribers,
        )

        def fastest(side):
            with run.directory("mqtt") as directory:
                broker = self.open(side, directory)
                try:
                    before = journal_bytes(broker)
                    figures = self.load(broker, shape, qos)
                    written = journal_bytes(broker)
                finally:
                    broker.kill()
                if side == OURS and qos == 1:
                    total = figures["rate"] * (int(run.seconds) + int(run.warm_up))
                    bare, sync = posthaste.floor(directory, broker, (written - before) / total, 5)
                    figures.update(floor_rate=bare, floor_share=figures["rate"] / bare, sync_p99_ms=sync)
                figures["peak_p50_ms"], figures["peak_p99_ms"] = figures.pop("p50_ms"), figures.pop("p99_ms")
                figures["mb"] = figures["rate"] * MESSAGE_BYTES / 1e6
                found.add(key, side, DURABILITY[qos, side], **figures)

        run.interleave(key, [OURS, *peers], fastest)
        half = found.median(key, PLAIN, "rate") / subscribers / 2

        def paced(side):
            with run.directory("mqtt") as directory:
                broker = self.open(side, directory)
                try:
                    figures = self.load(broker, shape, qos, f"{half:.0f}")
                finally:
                    broker.kill()
                found.add(
                    key,
                    side,
                    DURABILITY[qos, side],
                    p50_ms=figures["p50_ms"],
                    p99_ms=figures["p99_ms"],
                    paced_rate=half,
                    paced_lost=figures["lost"],
                )

        run.interleave(f"{key} at {half:.0f}/s", [OURS, *peers], paced)


def journal_bytes(broker):
    """What our journal has written so far; None of another broker."""
    return broker.metrics()["posthaste_journal_bytes_total"] if isinstance(broker, posthaste.Broker) else None


def main():
    """The command."""
    parser = argparse.ArgumentParser(prog="bench/mosquitto", description=__doc__)
    measure.arguments(parser)
    options = measure.defaults(parser.parse_args())
    install.debian("mosquitto")
    posthaste.build(options)
    run = measure.Run("mosquitto", options)
    bench = Bench(run)
    for qos in (0, 1):
        for shape in SHAPES:
            run.attempt(bench.row, shape, qos)
    run.finish(posthaste.loopback())
