"""Where the broker's processor time goes under load: a flame graph, and system calls per message, by perf."""

import argparse
import re
import subprocess
import sys
import threading

from . import install, machine, measure, posthaste, rabbitmq
from .processes import BenchError, Process, output

SAMPLES_A_SECOND = 199
STACK_BYTES = 32 << 10
# Those that a hot path can make; all others are counted together.
CALLS = (
    "read readv recvfrom recvmsg write writev sendto sendmsg epoll_wait epoll_ctl futex "
    "pread64 pwrite64 pwritev pwritev2 fdatasync fsync fallocate madvise mmap munmap sched_yield"
).split()
FUNCTIONS_SHOWN = 12
INFERNO = "0.12.3"
# What is measured: the load generator's arguments, and the name of its figure.
PATHS = {
    "kafka-produce": (
        "Kafka: produce 1 KiB, acks=all, 4 partitions, batches of 16 KiB",
        ["kafka", "--partitions", 4],
        "acknowledged_per_second",
    ),
    "amqp-queue": (
        "AMQP: persistent 1 KiB, confirms, one consumer that acknowledges, window 1,000",
        ["amqp", "--windows", 1000],
        "delivered_per_second",
    ),
    "amqp-transient": (
        "AMQP: transient 1 KiB, one consumer without acknowledgements",
        ["amqp", "--windows", 1000, "--transient"],
        "delivered_per_second",
    ),
    "perf-test-persistent": (
        "AMQP: PerfTest, persistent 1 KiB, confirm window 100, consumer acks",
        ["perf-test", "persistent", 100],
        "rate",
    ),
    "perf-test-transient": (
        "AMQP: PerfTest, transient 1 KiB, auto-ack",
        ["perf-test", "transient", None],
        "rate",
    ),
    "mqtt-qos-0": (
        "MQTT: QoS 0, 100 bytes, 16 pairs",
        ["mqtt", "--publishers", 16],
        "delivered_per_second",
    ),
    "mqtt-fan-out": (
        "MQTT: QoS 0, 100 bytes, 1 publisher to 50 subscribers",
        ["mqtt", "--subscribers", 50],
        "delivered_per_second",
    ),
    "mqtt-qos-1": (
        "MQTT: QoS 1, 100 bytes, 16 pairs with persistent sessions",
        ["mqtt", "--publishers", 16, "--qos", 1, "--persistent"],
        "delivered_per_second",
    ),
}


class Load:
    """A run of the load generator on a broker of its own."""

    def __init__(self, run, directory, arguments, figure):
        self.broker = posthaste.Broker(directory)
        self.figure, self.found, self.error = figure, None, None
        self.thread = threading.Thread(target=self.generate)
        self.run, self.directory, self.arguments = run, directory, arguments
        if arguments[0] == "perf-test":
            return
        if arguments[0] == "kafka":
            self.broker.post("/v1/topics", {"name": "bench", "partitions": 4})
        self.arguments = [
            *arguments,
            "--at",
            f"127.0.0.1:{self.broker.ports[arguments[0]]}",
            "--seconds",
            int(run.seconds),
            "--warm-up",
            int(run.warm_up),
        ]

    def generate(self):
        """The load itself."""
        try:
            native = self.arguments[0] != "perf-test"
            self.found = posthaste.bench(*self.arguments, timeout=600) if native else self.perf_test()
        except (BenchError, OSError, subprocess.SubprocessError) as error:
            self.error = error

    def perf_test(self):
        """RabbitMQ's own load tool, as `bench/rabbitmq` starts it."""
        run, log = self.run, self.directory / "perf-test"
        _, kind, window = self.arguments
        seconds = run.warm_up + run.seconds + 1
        command = rabbitmq.perf_test(install.maven("perf-test"), self.broker, kind, 1024, window, seconds)
        process = Process(command, log)
        try:
            process.child.wait(600)
        finally:
            process.kill()
        found = rabbitmq.steady(log.read_text(), run.warm_up)
        if not found:
            raise BenchError(f"PerfTest: {process.tail()}")
        return found

    def under(self, run, *perf):
        """Runs perf on the broker for as long as the load is counted; returns what it wrote, and the rate."""
        self.thread.start()
        try:
            # perf waits for its command; the load is warm by then.
            self.thread.join(run.warm_up)
            pid = self.broker.process.child.pid
            command = [*perf, "-p", pid, "--", "sleep", int(run.seconds)]
            done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
            self.thread.join()
            if self.error:
                raise self.error
            if done.returncode != 0:
                raise BenchError(f"{' '.join(map(str, command))}: {done.stderr[-2000:]}")
            return done.stderr, self.found[self.figure]
        finally:
            self.broker.kill()
            self.thread.join()


def count_calls(run, arguments, figure):
    """System calls per message by name, with the sum of the others, and the rate."""
    events = ["raw_syscalls:sys_enter", *(f"syscalls:sys_enter_{call}" for call in CALLS)]
    with run.directory("profile") as directory:
        load = Load(run, directory, arguments, figure)
        said, rate = load.under(run, "perf", "stat", "-x", ";", "-e", ",".join(events))
    counted = counts(said)
    total = counted.pop("raw_syscalls:sys_enter", 0)
    if not total:
        raise BenchError(f"perf counts no system calls here:\n{said[-1000:]}")
    calls = {name.rsplit("sys_enter_", 1)[-1]: count for name, count in counted.items() if count}
    calls["others"] = max(total - sum(calls.values()), 0)
    messages = rate * int(run.seconds)
    return {name: count / messages for name, count in calls.items()}, total / messages, rate


def counts(said):
    """What `perf stat -x ';'` counted, by event."""
    fields = [line.split(";") for line in said.splitlines()]
    return {field[2]: int(field[0]) for field in fields if len(field) > 2 and field[0].isdigit()}


def flame(run, key, title, arguments, figure, tools):
    """Writes a flame graph; returns the kernel's share, and the functions with the most samples of their own."""
    folder = machine.target() / "bench" / "profile"
    folder.mkdir(parents=True, exist_ok=True)
    with run.directory("profile") as directory:
        data = directory / "perf.data"
        record = ["perf", "record", "-q", "-e", "cpu-clock", "-F", SAMPLES_A_SECOND, "-o", data]
        load = Load(run, directory, arguments, figure)
        load.under(run, *record, "--call-graph", f"dwarf,{STACK_BYTES}")
        script = output(["perf", "script", "-i", data, "--no-inline"], timeout=900, errors="replace")
    folded = output([tools / "inferno-collapse-perf", "--kernel"], input=script)
    drawn = output([tools / "inferno-flamegraph", "--title", title], input=folded)
    path = folder / f"{key}.svg"
    path.write_text(drawn)
    print(f"flame graph: {path}", file=sys.stderr)
    return shares(folded)


def shares(folded):
    """The kernel's share of all samples, and functions by the share in which they were running themselves."""
    total, kernel, own = 0, 0, {}
    for line in folded.splitlines():
        stack, count = line.rsplit(" ", 1)
        leaf = stack.rsplit(";", 1)[-1]
        total += int(count)
        kernel += int(count) if leaf.endswith("_[k]") else 0
        name = re.sub(r"::h[0-9a-f]{16}$|\.llvm\.\d+$|_\[k\]$", "", leaf)
        own[name] = own.get(name, 0) + int(count)
    if not total:
        raise BenchError("perf took no samples")
    most = sorted(own.items(), key=lambda item: -item[1])[:FUNCTIONS_SHOWN]
    return kernel / total, [[name, count / total] for name, count in most]


def inferno():
    """The directory of inferno's programs, built once."""
    root = machine.target() / "bench" / "inferno"
    if not (root / "bin" / "inferno-flamegraph").exists():
        command = ["cargo", "install", "--quiet", "--locked", "--root", root, "inferno", "--version", INFERNO]
        output(command)
    return root / "bin"


def main():
    """The command."""
    parser = argparse.ArgumentParser(prog="bench/profile", description=__doc__)
    measure.arguments(parser)
    options = measure.defaults(parser.parse_args())
    install.debian("linux-perf", "default-jre-headless", "maven")
    install.maven("perf-test")
    tools = inferno()
    posthaste.build(options)
    options.rounds = 1
    run = measure.Run("profile", options)
    run.settings = {
        "load": "posthaste-bench and PerfTest with the arguments of the comparisons; client and broker share the machine",
        "system calls": "perf stat on the broker while the load is counted, divided by the messages of that time",
        "time": f"perf record on the broker, {SAMPLES_A_SECOND} samples a second of each processor, in a run of its own; "
        "a function's share is what it ran itself, without what it called",
    }
    paths = {}

    def profile(key):
        title, arguments, figure = PATHS[key]
        print(f"{key}: {title}", file=sys.stderr, flush=True)
        calls, total, rate = count_calls(run, arguments, figure)
        kernel, functions = flame(run, key, title, arguments, figure, tools)
        paths[key] = {
            "title": title,
            "rate": rate,
            "calls": total,
            "by_name": dict(sorted(calls.items(), key=lambda item: -item[1])),
            "kernel": kernel,
            "functions": functions,
        }
        print(f"  {rate:,.0f} messages/s, {total * 1000:.1f} system calls for 1,000, {kernel:.0%} in the kernel")
        print("  " + ", ".join(f"{name} {count * 1000:.1f}" for name, count in paths[key]["by_name"].items()))
        for name, share in functions:
            print(f"  {share:6.1%}  {name}")

    for key in PATHS:
        if run.wants(key):
            run.attempt(profile, key)
    run.write({**run.facts(*paths.values()), "paths": paths})
