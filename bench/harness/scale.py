"""Scale curves of ours: throughput, memory per item and restart against numbers of partitions, queues,
connections, bindings, subscriptions, bytes of a message and messages queued."""

import argparse
import resource
import socket
import time

from . import amqp, measure, posthaste
from .processes import BenchError

IDLE_MB_MAX, BACKLOG_MB_MAX = 30, 200
BACKLOG = 10_000_000
# Declared at once; the broker's answer to the last is waited for.
CHUNK = 5_000
# Of one MQTT connection.
SUBSCRIPTIONS_MAX = 10_000


class Bench:
    """The curves."""

    def __init__(self, run, quick):
        self.run, self.quick = run, quick
        self.curves, self.bars = {}, []
        run.versions = {}
        run.settings = {
            "memory": "anonymous memory of the process, before and with the items, divided by their number",
            "restart": "kill -9, then start to ready, nothing dropped from the page cache",
            "throughput": "with the items there but untouched: 4 publishers of persistent 100-byte "
            "messages to one queue and one "
            "consumer that acknowledges (AMQP, window 1,000), unless the column says otherwise",
        }

    def counts(self, *counts):
        """Numbers of items, without the largest in a quick run."""
        return counts[:-1] if self.quick else counts

    def amqp_rate(self, broker, size=100, consumers=1):
        """Messages a second through a queue of its own."""
        found = posthaste.bench(
            "amqp",
            "--at",
            f"127.0.0.1:{broker.ports['amqp']}",
            "--windows",
            1000,
            "--message-bytes",
            size,
            "--consumers",
            consumers,
            "--connections",
            4,
            "--seconds",
            int(self.run.seconds),
            "--warm-up",
            2,
        )
        return found["delivered_per_second" if consumers else "acknowledged_per_second"]

    def kafka_rate(self, broker, partitions, size=1024, batch=16 << 10):
        """Records a second, over all partitions of the topic `bench`."""
        found = posthaste.bench(
            "kafka",
            "--at",
            f"127.0.0.1:{broker.ports['kafka']}",
            "--partitions",
            partitions,
            "--request-batches",
            min(partitions, 16),
            "--message-bytes",
            size,
            "--batch-bytes",
            batch,
            "--seconds",
            int(self.run.seconds),
            "--warm-up",
            2,
        )
        return found["acknowledged_per_second"]

    def curve(self, key, title, columns, counts, point, note=None):
        """Measures one point after the other, each on a broker of its own."""
        if not self.run.wants(key):
            return
        points = []
        for count in counts:
            print(f"{key}: {count:,}", flush=True)
            with self.run.directory("scale") as directory:
                broker = posthaste.Broker(directory)
                try:
                    points.append([count, *point(broker, count)])
                finally:
                    broker.kill()
        self.curves[key] = {"title": title, "columns": columns, "points": points, "note": note}

    def items(self, broker, count, make, rate):
        """Microseconds to make one item, early and late; bytes of one; throughput; restart."""
        before = broker.process.anonymous_bytes()
        early = late = None
        for first in range(0, count, CHUNK):
            last = min(first + CHUNK, count)
            begun = time.monotonic()
            make(first, last)
            late = (time.monotonic() - begun) / (last - first) * 1e6
            early = late if early is None else early
        each = (broker.process.anonymous_bytes() - before) / count
        throughput = rate(broker)
        broker.kill()
        return early, late, each, throughput, broker.start(), broker.process.anonymous_bytes() / 1e6

    ITEM_COLUMNS = [
        "µs to make one, first",
        "µs to make one, last",
        "bytes of memory each",
        "messages/s",
        "restart s",
        "MB after restart",
    ]

    def queues(self):
        """Durable queues, empty."""

        def point(broker, count):
            channel = amqp.Channel(broker.ports["amqp"])
            make = lambda first, last: channel.declare(f"queue-{n}" for n in range(first, last))
            return self.items(broker, count, make, self.amqp_rate)

        self.curve(
            "queues",
            "Queues, durable and empty",
            ["queues", *self.ITEM_COLUMNS],
            self.counts(1_000, 10_000, 100_000),
            point,
        )

    def bindings(self):
        """Bindings of one queue to a topic exchange."""

        def point(broker, count):
            channel = amqp.Channel(broker.ports["amqp"])
            channel.declare(["bound"])
            make = lambda first, last: channel.bind(
                "bound", "amq.topic", (f"site.{n // 1000}.{n}.*" for n in range(first, last))
            )
            return self.items(broker, count, make, self.amqp_rate)

        self.curve(
            "bindings",
            "Bindings of a topic exchange, with a wildcard each",
            ["bindings", *self.ITEM_COLUMNS],
            self.counts(1_000, 10_000, 100_000),
            point,
        )

    def subscriptions(self):
        """MQTT subscriptions, with a wildcard each, as many on one connection as it may have."""

        def point(broker, count):
            clients = [
                mqtt_connect(broker.ports["mqtt"], f"subscriptions-{first}")
                for first in range(0, count, SUBSCRIPTIONS_MAX)
            ]

            def make(first, last):
                for number, client in enumerate(clients):
                    own = range(number * SUBSCRIPTIONS_MAX, (number + 1) * SUBSCRIPTIONS_MAX)
                    filters = [f"site/{n // 1000}/{n}/+" for n in range(max(first, own.start), min(last, own.stop))]
                    mqtt_subscribe(client, filters)

            rate = lambda broker: posthaste.bench(
                "mqtt",
                "--at",
                f"127.0.0.1:{broker.ports['mqtt']}",
                "--publishers",
                8,
                "--seconds",
                int(self.run.seconds),
                "--warm-up",
                2,
            )["delivered_per_second"]
            return self.items(broker, count, make, rate)

        self.curve(
            "subscriptions",
            "MQTT subscriptions, with a wildcard each, up to 10,000 on a connection",
            ["subscriptions", *self.ITEM_COLUMNS],
            self.counts(1_000, 10_000, 100_000),
            point,
            "Messages/s: MQTT QoS 0, 8 pairs. The sessions end with their connections, so a restart has none "
            "of them.",
        )

    def partitions(self):
        """Partitions of one topic."""

        def point(broker, count):
            before = broker.process.anonymous_bytes()
            begun = time.monotonic()
            broker.post("/v1/topics", {"name": "bench", "partitions": count})
            made = (time.monotonic() - begun) / count * 1e6
            each = (broker.process.anonymous_bytes() - before) / count
            rate = self.kafka_rate(broker, min(count, 1000))
            broker.kill()
            return made, each, rate, broker.start(), broker.process.anonymous_bytes() / 1e6

        self.curve(
            "partitions",
            "Partitions of a topic",
            [
                "partitions",
                "µs to make one",
                "bytes of memory each",
                "records/s",
                "restart s",
                "MB after restart",
            ],
            self.counts(1, 10, 100, 1_000, 10_000),
            point,
            "Records/s: Kafka produce, acks=all, 1 KiB, 16 KiB batches over all partitions, 1,000 at most.",
        )

    def connections(self):
        """Idle MQTT connections."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

        def point(broker, count):
            before = broker.process.anonymous_bytes()
            begun = time.monotonic()
            open_ones = [mqtt_connect(broker.ports["mqtt"], f"idle-{n}") for n in range(count)]
            made = (time.monotonic() - begun) / count * 1e6
            each = (broker.process.anonymous_bytes() - before) / count
            cpu, at = broker.process.cpu_seconds(), time.monotonic()
            time.sleep(self.run.seconds)
            busy = (broker.process.cpu_seconds() - cpu) / (time.monotonic() - at) * 100
            rate = self.amqp_rate(broker)
            for one in open_ones:
                one.close()
            return made, each, busy, rate

        self.curve(
            "connections",
            "Idle connections",
            ["connections", "µs to open one", "bytes of memory each", "% of a core when idle", "messages/s"],
            self.counts(100, 1_000, 10_000),
            point,
            "MQTT; memory without what the kernel needs for sockets.",
        )

    def sizes(self):
        """Bytes of a message."""

        def point(broker, size):
            broker.post("/v1/topics", {"name": "bench", "partitions": 4})
            queue = self.amqp_rate(broker, size, consumers=0)
            topic = self.kafka_rate(broker, 4, size, max(16 << 10, min(size * 2, 1 << 20)))
            return queue, queue * size / 1e6, topic, topic * size / 1e6

        self.curve(
            "message-size",
            "Bytes of a message, synced before the answer",
            ["bytes", "to a queue/s", "to a queue MB/s", "to a topic/s", "to a topic MB/s"],
            self.counts(16, 128, 1 << 10, 8 << 10, 64 << 10, 512 << 10),
            point,
            "To a queue: AMQP, 4 publishers, window 1,000, no consumer. To a topic: Kafka, 4 producers, 4 "
            "partitions, 16 KiB "
            "batches or two messages.",
        )

    def backlog(self):
        """Messages of 100 bytes in a queue."""
        if self.run.wants("backlog"):
            with self.run.directory("scale") as directory:
                broker = posthaste.Broker(directory)
                time.sleep(1)
                idle = broker.process.anonymous_bytes() / 1e6
                broker.kill()
            self.bars.append(
                {
                    "what": "anonymous memory, idle",
                    "asks": f"at most {IDLE_MB_MAX} MB",
                    "measured": f"{idle:.1f} MB",
                    "met": idle <= IDLE_MB_MAX,
                }
            )

        def point(broker, count):
            before, begun, most = broker.process.anonymous_bytes(), time.monotonic(), 0
            posthaste.bench(
                "fill",
                "--at",
                f"127.0.0.1:{broker.ports['amqp']}",
                "--messages",
                count,
                "--message-bytes",
                100,
            )
            took = time.monotonic() - begun
            time.sleep(2)
            with_it = broker.process.anonymous_bytes()
            broker.kill()
            restart = broker.start()
            after = broker.process.anonymous_bytes() / 1e6
            if count == BACKLOG:
                most = max(with_it / 1e6, after)
                self.bars.append(
                    {
                        "what": "anonymous memory with 10 million queued 100-byte messages",
                        "asks": f"at most {BACKLOG_MB_MAX} MB",
                        "measured": f"{most:.0f} MB",
                        "met": most <= BACKLOG_MB_MAX,
                    }
                )
            return count / took, with_it / 1e6, (with_it - before) / count, restart, after

        self.curve(
            "backlog",
            "Messages of 100 bytes in a queue",
            ["messages", "filled/s", "MB of memory", "bytes of memory each", "restart s", "MB after restart"],
            self.counts(100_000, 1_000_000, BACKLOG),
            point,
        )


def mqtt_connect(port, identifier):
    """An MQTT 3.1.1 connection with a clean session and no keep-alive."""
    body = b"\0\4MQTT\4\2\0\0" + len(identifier).to_bytes(2, "big") + identifier.encode()
    client = socket.create_connection(("127.0.0.1", port), timeout=120)
    client.sendall(b"\x10" + bytes([len(body)]) + body)
    if client.recv(4) != b"\x20\2\0\0":
        raise OSError("the broker refuses an MQTT connection")
    return client


def mqtt_subscribe(client, filters):
    """Subscribes in packets of a hundred, and waits for all answers."""
    groups = [filters[at : at + 100] for at in range(0, len(filters), 100)]
    for group in groups:
        body = b"\0\1" + b"".join(len(one).to_bytes(2, "big") + one.encode() + b"\0" for one in group)
        client.sendall(b"\x82" + bytes([len(body) % 128 | 0x80, len(body) // 128]) + body)
    answers = client.makefile("rb")
    for group in groups:
        answer = answers.read(len(group) + 4)
        if len(answer) < len(group) + 4:
            raise OSError("the broker closed the connection")
        if any(answer[4:]):
            raise BenchError(f"a subscription was refused: {answer[4:].hex()}")


def main():
    """The command."""
    parser = argparse.ArgumentParser(prog="bench/scale", description=__doc__)
    measure.arguments(parser)
    options = parser.parse_args()
    options.seconds = options.seconds or (3 if options.quick else 10)
    options = measure.defaults(options)
    posthaste.build(options)
    options.rounds = 1
    run = measure.Run("scale", options)
    bench = Bench(run, options.quick)
    for curve in (
        bench.partitions,
        bench.queues,
        bench.connections,
        bench.bindings,
        bench.subscriptions,
        bench.sizes,
        bench.backlog,
    ):
        run.attempt(curve)
    run.finish_curves(bench.curves, bench.bars)
