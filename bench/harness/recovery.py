"""Ready after kill -9 with a journal that was not checkpointed, against reading the same bytes, both cold."""

import argparse
import time

from . import measure, posthaste
from .processes import BenchError, forget_cached

MESSAGE_BYTES = 200
SECONDS_MAX = 5


class Unchecked(posthaste.Broker):
    """A broker that makes no checkpoint before its journal is larger than what is written here."""

    def __init__(self, directory, journal_bytes):
        configuration = directory / "posthaste.toml"
        configuration.write_text(f"[limits]\njournal_bytes_between_checkpoints = {journal_bytes * 4}\n")
        self.flags = ["--config", configuration]
        super().__init__(directory)


def fill(broker, journal_bytes):
    """Writes the journal; messages of every second queue are settled. Returns messages stored and left."""
    at = f"127.0.0.1:{broker.ports['amqp']}"
    load = ["amqp", "--at", at, "--windows", 3000, "--message-bytes", MESSAGE_BYTES, "--warm-up", 0]
    while broker.metrics()["posthaste_journal_bytes_total"] < journal_bytes:
        posthaste.bench(*load, "--queues", 2, "--connections", 4, "--consumers", 1, "--seconds", 5)
        # What the consumer of the first queue was left behind with.
        for _ in range(100):
            if broker.ready("bench-0") == 0:
                break
            posthaste.bench(*load, "--queues", 1, "--connections", 0, "--consumers", 2, "--seconds", 2)
        else:
            raise BenchError("the first queue does not become empty")
    return int(broker.metrics()["posthaste_published_total"]), broker.ready("bench-1")


def read_all(directory):
    """Reads every file below a directory once; returns bytes and seconds."""
    buffer, total, begun = bytearray(1 << 20), 0, time.monotonic()
    for path in sorted(directory.rglob("*")):
        if path.is_file():
            with open(path, "rb", buffering=0) as file:
                while read := file.readinto(buffer):
                    total += read
    return total, time.monotonic() - begun


def main():
    """The command."""
    parser = argparse.ArgumentParser(prog="bench/recovery", description=__doc__)
    measure.arguments(parser)
    parser.add_argument("--journal-gib", type=float, help="GiB of journal (default 4; 0.25 with --quick)")
    options = measure.defaults(parser.parse_args())
    journal = int((options.journal_gib or (0.25 if options.quick else 4)) * (1 << 30))
    posthaste.build(options)
    run = measure.Run("recovery", options)
    run.versions = {}
    run.settings = {
        "load": f"persistent messages of {MESSAGE_BYTES} bytes over AMQP to two queues; those of one are "
        "consumed and acknowledged "
        "as they come, those of the other stay",
        "measured": "kill -9; the page cache of the directory dropped; every byte of the journal read; "
        "dropped again; start to ready",
    }
    points, bars = [], []
    with run.directory("recovery") as directory:
        broker = Unchecked(directory, journal)
        try:
            stored, left = fill(broker, journal)
            checkpoints = broker.metrics()["posthaste_checkpoints_total"]
            for _ in range(options.rounds):
                broker.kill()
                forget_cached(broker.data)
                total, reading = read_all(broker.data / "journal")
                forget_cached(broker.data)
                ready = broker.start()
                if broker.ready("bench-1") != left:
                    raise BenchError(f"{broker.ready('bench-1')} messages after the restart, not {left}")
                points.append(
                    [
                        len(points) + 1,
                        stored / 1e6,
                        left / 1e6,
                        total / (1 << 30),
                        reading,
                        ready,
                        ready - reading,
                        broker.process.anonymous_bytes() / 1e6,
                    ]
                )
        finally:
            broker.kill()
    more = measure.median([point[6] for point in points])
    bars.append(
        {
            "what": f"ready after kill -9 with {journal / (1 << 30):g} GiB of journal, cold",
            "met": more <= SECONDS_MAX,
            "asks": f"at most {SECONDS_MAX} s more than reading it",
            "measured": f"{more:.1f} s",
        }
    )
    curve = {
        "title": "Ready after kill -9",
        "points": points,
        "columns": [
            "round",
            "million stored",
            "million left",
            "GiB of journal",
            "s to read it",
            "s to ready",
            "s more",
            "MB after",
        ],
        "note": f"{checkpoints:g} checkpoints were made before the first kill.",
    }
    run.finish_curves({"restart": curve}, bars)
