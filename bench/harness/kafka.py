"""Kafka: kafka-producer-perf-test and kafka-consumer-perf-test against both brokers."""

import argparse
import re
import time
import uuid

from . import install, measure, posthaste
from .measure import OURS
from .processes import BenchError, Process, forget_cached, free_port, listens, output

KAFKA = "Kafka"
TOPIC = "bench"
PARTITIONS = 4
RECORD_BYTES = 1024
# What kafka-server-start.sh and kafka-run-class.sh give a broker.
BROKER_JVM = [
    "-Xmx1G",
    "-Xms1G",
    "-server",
    "-XX:+UseG1GC",
    "-XX:MaxGCPauseMillis=20",
    "-XX:InitiatingHeapOccupancyPercent=35",
    "-XX:+ExplicitGCInvokesConcurrent",
    "-XX:MaxInlineLevel=15",
    "-Djava.awt.headless=true",
]
# kafka-producer-perf-test.sh and kafka-consumer-perf-test.sh: KAFKA_HEAP_OPTS="-Xmx512M".
TOOL_JVM = ["-Xmx512M", *BROKER_JVM[2:]]
# config/server.properties as shipped, but for addresses and directories.
PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers=127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
inter.broker.listener.name=PLAINTEXT
controller.listener.names=CONTROLLER
num.network.threads=3
num.io.threads=8
socket.send.buffer.bytes=102400
socket.receive.buffer.bytes=102400
socket.request.max.bytes=104857600
log.dirs={data}
num.partitions=1
num.recovery.threads.per.data.dir=1
offsets.topic.replication.factor=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
log.retention.hours=168
log.segment.bytes=1073741824
log.retention.check.interval.ms=300000
"""
DURABILITY = {
    ("synced", OURS): "fsync before the answer",
    ("synced", KAFKA): "fsync before the answer (flush.messages=1)",
    ("cache", OURS): "page cache (posthaste.durability=os)",
    ("cache", KAFKA): "page cache (default)",
}
# Of each partition, so that what is deleted while more arrives is a part of every figure. Kafka deletes whole
# segments, which have this size as well.
RETENTION_BYTES = 1 << 30
STEADY = re.compile(
    r"^(\d+) (steady state )?records sent, ([\d.]+) records/sec .*?([\d.]+) ms 50th, ([\d.]+) ms 95th, "
    r"([\d.]+) ms 99th",
    re.MULTILINE,
)


class Kafka:
    """One Kafka node, broker and controller in one process."""

    def __init__(self, directory, class_path):
        self.directory, self.class_path = directory, class_path
        self.ports = {"kafka": free_port()}
        self.data = directory / "data"
        properties = directory / "server.properties"
        properties.write_text(
            PROPERTIES.format(port=self.ports["kafka"], controller=free_port(), data=self.data)
        )
        self.properties = properties
        identifier = output(["java", "-cp", class_path, "kafka.tools.StorageTool", "random-uuid"]).split()[-1]
        output(
            [
                "java",
                "-cp",
                class_path,
                "kafka.tools.StorageTool",
                "format",
                "-t",
                identifier,
                "-c",
                properties,
                "--standalone",
            ]
        )
        self.start()

    def start(self):
        """Starts it and waits until it accepts connections."""
        log4j = f"-Dlog4j2.configurationFile={install.PEERS / 'kafka-log4j2.properties'}"
        self.process = Process(
            [
                "java",
                *BROKER_JVM,
                log4j,
                f"-Dkafka.logs.dir={self.directory}",
                "-cp",
                self.class_path,
                "kafka.Kafka",
                self.properties,
            ],
            self.directory / "log",
        )
        self.process.wait_until(lambda: listens(self.ports["kafka"]), 120, "listener")

    def stop(self):
        """An orderly stop."""
        self.process.end()

    def kill(self):
        """kill -9."""
        self.process.kill()


class Bench:
    """The rows of this comparison."""

    def __init__(self, run):
        self.run = run
        self.class_path = install.maven("kafka")
        run.versions = {
            KAFKA: install.jar_version(self.class_path, "kafka_2.13"),
            "Java": install.java_version(),
        }
        run.settings = {
            "load": f"kafka-producer-perf-test and kafka-consumer-perf-test {run.versions[KAFKA]}, their "
            "defaults but "
            f"for what the row says; {RECORD_BYTES} bytes a record, {PARTITIONS} partitions, acks=all; "
            "client and "
            "broker share the machine",
            KAFKA: "one node, broker and controller in one process; config/server.properties and JVM flags as "
            "shipped "
            "(1 GiB heap)",
            OURS: "as it starts, without flags but for ports and directory",
            "native client": "posthaste-bench kafka: 4 connections with 5 requests in flight each, in "
            "Rust: where the Java producer is "
            "the limit it leaves more of the machine to the broker",
            "retention": f"on where rows produce: {RETENTION_BYTES >> 30} GiB a partition. Posthaste looks every "
            "minute, Kafka every five",
            "p99": "at half of the rate that Kafka reached in the same row",
            "CPU": "processor time of the broker's process per record",
        }

    def open(self, side, directory):
        """Starts one side's broker."""
        return posthaste.Broker(directory) if side == OURS else Kafka(directory, self.class_path)

    def tool(self, name, *arguments):
        """A command line of one of Kafka's tools."""
        return [
            "java",
            *TOOL_JVM,
            "-cp",
            self.class_path,
            f"org.apache.kafka.tools.{name}",
            *map(str, arguments),
        ]

    def create_topic(self, broker, kind, retention_bytes=RETENTION_BYTES):
        """Makes the topic. Kafka's tool knows Kafka's settings only, so ours is made over HTTP."""
        if isinstance(broker, posthaste.Broker):
            settings = {"durability": {"synced": "fsync", "cache": "os"}[kind], "retention_bytes": retention_bytes}
            broker.post("/v1/topics", {"name": TOPIC, "partitions": PARTITIONS, **settings})
            return
        extra = ["--config", "flush.messages=1"] if kind == "synced" else []
        if retention_bytes:
            extra += ["--config", f"retention.bytes={retention_bytes}"]
        output(
            self.tool(
                "TopicCommand",
                "--bootstrap-server",
                f"127.0.0.1:{broker.ports['kafka']}",
                "--create",
                "--topic",
                TOPIC,
                "--partitions",
                PARTITIONS,
                "--replication-factor",
                1,
                *extra,
            )
        )

    def produce(self, broker, directory, records, warm_up, producers, batch_bytes, rate=-1):
        """Runs producers at once, `records` each behind `warm_up`; sums rates, takes the worst percentiles."""

        def start(number):
            return Process(
                self.tool(
                    "ProducerPerformance",
                    "--bootstrap-server",
                    f"127.0.0.1:{broker.ports['kafka']}",
                    "--topic",
                    TOPIC,
                    "--num-records",
                    records + warm_up,
                    "--warmup-records",
                    warm_up,
                    "--record-size",
                    RECORD_BYTES,
                    "--throughput",
                    rate if rate < 0 else max(1, rate // producers),
                    "--command-property",
                    "acks=all",
                    f"batch.size={batch_bytes}",
                ),
                directory / f"producer-{number}-{time.monotonic_ns()}",
            )

        before, metrics = broker.process.cpu_seconds(), journal_bytes(broker)
        running = [start(number) for number in range(producers)]
        found = []
        try:
            for process in running:
                process.child.wait(self.run.seconds * 20 + 300)
                lines = STEADY.findall(process.log.read_text())
                if process.child.returncode != 0 or not lines:
                    raise BenchError(f"producer: {process.tail()}")
                found.append([float(value) for value in lines[-1][2:]])
        finally:
            for process in running:
                process.kill()
        total = producers * (records + warm_up)
        written = journal_bytes(broker)
        return {
            "rate": sum(one[0] for one in found),
            "p50_ms": max(one[1] for one in found),
            "p99_ms": max(one[3] for one in found),
            "cpu_us": (broker.process.cpu_seconds() - before) * 1e6 / total,
        }, None if metrics is None else (written - metrics) / total

    def produce_row(self, kind, producers, batch_bytes):
        """Throughput, then latency at half of Kafka's rate."""
        run, found = self.run, self.run.found
        key = f"produce-{kind}-{batch_bytes >> 10}k-{producers}"
        if not run.wants(key):
            return
        many = f"{producers} producers" if producers > 1 else "1 producer"
        label = {"synced": "both synced", "cache": "both page cache"}[kind]
        bar = {"ratio_min": {KAFKA: 3 if kind == "synced" else 1}, "p99_max": {KAFKA: False}}
        if kind == "synced":
            bar["floor_min"] = 0.7
        found.row(key, f"produce, {batch_bytes >> 10} KiB batches, {label}, {many}", "records/s", bar)
        rates = {}

        def fastest(side):
            with run.directory(side.lower()) as directory:
                broker = self.open(side, directory)
                try:
                    self.create_topic(broker, kind)
                    guess = rates.get(side)
                    if guess is None:
                        trial, _ = self.produce(broker, directory, 20_000, 5_000, producers, batch_bytes)
                        trial, _ = self.produce(
                            broker,
                            directory,
                            int(trial["rate"] * 2 / producers) + 5_000,
                            5_000,
                            producers,
                            batch_bytes,
                        )
                        guess = trial["rate"]
                    each = max(10_000, int(guess * run.seconds / producers))
                    warm_up = max(5_000, int(guess * run.warm_up / producers))
                    figures, written = self.produce(broker, directory, each, warm_up, producers, batch_bytes)
                    rates[side] = figures["rate"]
                finally:
                    broker.kill()
                if side == OURS and kind == "synced":
                    bare, sync = posthaste.floor(directory, broker, written, 5)
                    figures.update(floor_rate=bare, floor_share=figures["rate"] / bare)
                figures["mb"] = figures["rate"] * RECORD_BYTES / 1e6
                figures["peak_p50_ms"], figures["peak_p99_ms"] = figures.pop("p50_ms"), figures.pop("p99_ms")
                found.add(key, side, DURABILITY[kind, side], **figures)

        run.interleave(key, [OURS, KAFKA], fastest)
        half = int(found.median(key, KAFKA, "rate") / 2)

        def paced(side):
            with run.directory(side.lower()) as directory:
                broker = self.open(side, directory)
                try:
                    self.create_topic(broker, kind)
                    figures, _ = self.produce(
                        broker,
                        directory,
                        int(half * run.seconds / producers),
                        int(half * run.warm_up / producers),
                        producers,
                        batch_bytes,
                        half,
                    )
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

        run.interleave(f"{key} at {half}/s", [OURS, KAFKA], paced)

    def native_row(self, kind, batch_bytes):
        """Throughput with the load generator in Rust."""
        run = self.run
        key = f"produce-{kind}-{batch_bytes >> 10}k-native"
        if not run.wants(key):
            return
        bar = {"ratio_min": {KAFKA: 3 if kind == "synced" else 1}}
        if kind == "synced":
            bar["floor_min"] = 0.7
        label = {"synced": "both synced", "cache": "both page cache"}[kind]
        run.found.row(
            key, f"produce, {batch_bytes >> 10} KiB batches, {label}, native client", "records/s", bar
        )
        lasts = int(run.seconds) + int(run.warm_up)

        def measured(side):
            with run.directory(side.lower()) as directory:
                broker = self.open(side, directory)
                try:
                    self.create_topic(broker, kind)
                    before, cpu = journal_bytes(broker), broker.process.cpu_seconds()
                    found = posthaste.bench(
                        "kafka",
                        "--at",
                        f"127.0.0.1:{broker.ports['kafka']}",
                        "--batch-bytes",
                        batch_bytes,
                        "--partitions",
                        PARTITIONS,
                        "--message-bytes",
                        RECORD_BYTES,
                        "--seconds",
                        int(run.seconds),
                        "--warm-up",
                        int(run.warm_up),
                    )
                    written, cpu = journal_bytes(broker), broker.process.cpu_seconds() - cpu
                finally:
                    broker.kill()
                rate = found["acknowledged_per_second"]
                figures = {
                    "rate": rate,
                    "mb": rate * RECORD_BYTES / 1e6,
                    "peak_p50_ms": found["p50_ms"],
                    "peak_p99_ms": found["p99_ms"],
                    "cpu_us": cpu * 1e6 / max(rate * lasts, 1),
                }
                if side == OURS and kind == "synced":
                    bare, _ = posthaste.floor(directory, broker, (written - before) / (rate * lasts), 5)
                    figures.update(floor_rate=bare, floor_share=rate / bare)
                run.found.add(key, side, DURABILITY[kind, side], **figures)

        run.interleave(key, [OURS, KAFKA], measured)

    def consume(self, broker, directory, records):
        """Reads the topic from its beginning with one consumer."""
        before = broker.process.cpu_seconds()
        process = Process(
            self.tool(
                "ConsumerPerformance",
                "--bootstrap-server",
                f"127.0.0.1:{broker.ports['kafka']}",
                "--topic",
                TOPIC,
                "--num-records",
                records,
                "--timeout",
                60_000,
                "--hide-header",
                "--group",
                f"perf-{uuid.uuid4()}",
            ),
            directory / f"consumer-{time.monotonic_ns()}",
        )
        try:
            process.child.wait(600)
            lines = [
                line.split(", ") for line in process.log.read_text().splitlines() if line.count(", ") == 9
            ]
            if not lines or int(lines[-1][4]) < records:
                raise BenchError(f"consumer: {process.tail()}")
            rate = float(lines[-1][9])
        finally:
            process.kill()
        return {
            "rate": rate,
            "mb": rate * RECORD_BYTES / 1e6,
            "cpu_us": (broker.process.cpu_seconds() - before) * 1e6 / records,
        }

    def consume_rows(self):
        """Hot: right after producing. Cold: after a restart, from disk."""
        run = self.run
        if not run.wants("consume"):
            return
        for key in ("consume-hot", "consume-cold"):
            run.found.row(key, f"consume, {key[8:]}, 1 consumer", "records/s", {"ratio_min": {KAFKA: 1}})
        records = int(60_000 * (run.warm_up + run.seconds))

        def measured(side):
            with run.directory(side.lower()) as directory:
                broker = self.open(side, directory)
                try:
                    self.create_topic(broker, "cache", retention_bytes=None)
                    self.produce(broker, directory, records, 1, 1, 256 << 10)
                    # The first pass warms the broker up.
                    self.consume(broker, directory, records // 4)
                    run.found.add("consume-hot", side, "–", **self.consume(broker, directory, records))
                    broker.stop()
                    forget_cached(directory)
                    broker.start()
                    run.found.add("consume-cold", side, "–", **self.consume(broker, directory, records))
                finally:
                    broker.stop()

        run.interleave("consume", [OURS, KAFKA], measured)


def journal_bytes(broker):
    """What our journal has written so far; None of another broker."""
    return broker.metrics()["posthaste_journal_bytes_total"] if isinstance(broker, posthaste.Broker) else None


def main():
    """The command."""
    parser = argparse.ArgumentParser(prog="bench/kafka", description=__doc__)
    measure.arguments(parser)
    options = measure.defaults(parser.parse_args())
    install.debian("default-jre-headless", "maven")
    posthaste.build(options)
    run = measure.Run("kafka", options)
    bench = Bench(run)
    for producers in (1, 3):
        run.attempt(bench.produce_row, "synced", producers, 16 << 10)
    run.attempt(bench.native_row, "synced", 16 << 10)
    for batch_bytes in (16 << 10, 256 << 10):
        for producers in (1, 3):
            run.attempt(bench.produce_row, "cache", producers, batch_bytes)
        run.attempt(bench.native_row, "cache", batch_bytes)
    run.attempt(bench.consume_rows)
    run.finish(posthaste.loopback())
