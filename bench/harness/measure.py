"""Interleaved rounds, medians and tables."""

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

from . import machine
from .processes import BenchError

OURS = "Posthaste"
# A virtual machine shares its processors. When others had more of them than this while something was measured, it is
# measured again after a pause, and the calmest try counts.
STOLEN_MAX = 0.1
TRIES = 4
PAUSE_SECONDS = 20


def median(values):
    """The middle value, or None of nothing."""
    values = [value for value in values if value is not None]
    return statistics.median(values) if values else None


class Rows:
    """What was measured: for each row and each side a list with one dictionary of figures per round."""

    def __init__(self):
        self.rows = {}
        self.collected = None

    def row(self, key, title, unit, bar=None, crossings=1):
        """Declares a row. `bar` is a dictionary: `ratio_min` and `p99_max` by the peer's name (of the latter the
        value says whether a sync's p99 is allowed on top), `floor_min`. `crossings`: how often a payload passes
        a socket."""
        self.rows.setdefault(
            key, {"title": title, "unit": unit, "bar": bar, "crossings": crossings, "sides": {}}
        )

    def add(self, key, side, durability, **figures):
        """Adds one round of one side."""
        if self.collected is not None:
            self.collected.append((key, side, durability, figures))
            return
        sides = self.rows[key]["sides"]
        sides.setdefault(side, {"durability": durability, "rounds": []})["rounds"].append(
            {name: value for name, value in figures.items() if value is not None}
        )

    def collect(self, measure):
        """What `measure()` would have added, as arguments of `add`."""
        self.collected = []
        try:
            measure()
            return self.collected
        finally:
            self.collected = None

    def median(self, key, side, figure):
        """The median of a figure over the rounds so far."""
        return of(self.rows[key], side, figure)


def of(row, side, figure, function=median):
    """A function, by default the median, of one side's figure in a row; None when it has none."""
    rounds = row["sides"].get(side, {"rounds": []})["rounds"]
    values = [one[figure] for one in rounds if figure in one]
    return function(values) if values else None


def share(value):
    """A share in percent."""
    return "" if value is None else f"{value:.0%}" if value >= 0.1 else f"{value:.1%}"


def ratio(row, side):
    """Our median rate over that of a side."""
    ours, theirs = of(row, OURS, "rate"), of(row, side, "rate")
    return ours / theirs if ours and theirs else None


def verdicts(row):
    """For each bar of a row what it asks, what was measured, and whether that is enough."""
    found = []
    bar = row["bar"] or {}
    for side, least in bar.get("ratio_min", {}).items():
        measured = ratio(row, side)
        if measured is not None:
            found.append((f"at least {least:g} × {side}", f"{measured:.2f} ×", measured >= least))
    least, reached = bar.get("floor_min"), of(row, OURS, "floor_share")
    if least and reached is not None:
        found.append((f"at least {least:.0%} of the floor", f"{reached:.0%}", reached >= least))
    for side, with_sync in bar.get("p99_max", {}).items():
        ours, theirs = of(row, OURS, "p99_ms"), of(row, side, "p99_ms")
        if ours is None or theirs is None:
            continue
        allowance = (of(row, OURS, "sync_p99_ms") or 0) if with_sync else 0
        most = theirs + allowance
        what = f"p99 at most {side}'s" + (
            f" and a sync's ({theirs:.1f} + {allowance:.1f} ms)" if allowance else ""
        )
        found.append((what, f"{ours:.1f} ms", ours <= most))
    return found


def number(value, decimals=None):
    """A figure with three significant digits or more, grouped."""
    if value is None:
        return "–"
    if decimals is None:
        decimals = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:,.{decimals}f}"


def rate(row, side):
    """The median rate, and what was published where that is not what arrived."""
    arrived, published = of(row, side, "rate"), of(row, side, "published")
    apart = arrived and published and abs(published - arrived) > arrived / 20
    return number(arrived) + (f" (published {number(published)})" if apart else "")


COLUMNS = [
    "what",
    "system",
    "durability",
    "median",
    "spread",
    "MB/s",
    "ours ÷ it",
    "p50 ms",
    "p99 ms",
    "CPU µs",
    "of the floor",
    "of loopback",
    "stolen",
]


def table(rows):
    """Lines of cells: a header, then each row's sides, ours first."""
    lines = [COLUMNS]
    for row in rows.values():
        title = f"{row['title']}, {row['unit']}"
        for side in sorted(row["sides"], key=lambda name: (name != OURS, name)):
            spread = [of(row, side, "rate", min), of(row, side, "rate", max)]
            against = ratio(row, side) if side != OURS else None
            lines.append(
                [
                    title,
                    side,
                    row["sides"][side]["durability"],
                    rate(row, side),
                    "–" if spread[0] is None else f"{number(spread[0])}–{number(spread[1])}",
                    number(of(row, side, "mb")),
                    "" if against is None else f"{against:.2f}",
                    number(of(row, side, "p50_ms")),
                    number(of(row, side, "p99_ms")),
                    number(of(row, side, "cpu_us")),
                    share(of(row, side, "floor_share")),
                    share(of(row, side, "loopback_share")),
                    share(of(row, side, "stolen", max)),
                ]
            )
            title = ""
        for what, measured, met in verdicts(row):
            lines.append(
                [f"  bar: {what}: {measured}: {'holds' if met else 'MISSED'}"] + [""] * (len(COLUMNS) - 1)
            )
    return lines


def text(lines):
    """Aligned columns; lines with one cell may be longer than theirs."""
    whole = [line for line in lines if any(line[1:])]
    widths = [max(len(line[at]) for line in whole) for at in range(len(lines[0]))]
    shown = []
    for line in lines:
        cells = [
            cell.ljust(width) if at < 3 and len(COLUMNS) == len(line) else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(line, widths))
        ]
        shown.append("  ".join(cells).rstrip() if any(line[1:]) else line[0])
    return "\n".join(shown)


class Run:
    """One call of a command: where it works, how long, and what it found."""

    def __init__(self, name, options):
        self.name = name
        self.rounds = options.rounds
        self.seconds = options.seconds
        self.warm_up = options.warm_up
        self.record = options.record
        self.only = options.only
        self.work = Path(options.scratch or machine.target() / "bench" / "work").absolute()
        self.work.mkdir(parents=True, exist_ok=True)
        self.found = Rows()
        self.failures = 0
        self.versions, self.settings = {}, {}
        self.begun, self.load = machine.now(), machine.load()

    def wants(self, name):
        """Whether a part was asked for."""
        return not self.only or any(part in name for part in self.only)

    @contextmanager
    def directory(self, name):
        """An empty directory on the disk to be measured, removed at the end."""
        path = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.work))
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)

    def interleave(self, what, sides, measure):
        """Calls `measure(side)`, which adds to the rows, for each side in turn, `rounds` times: A B, B A, A B…"""
        for number_of_round in range(self.rounds):
            order = list(sides) if number_of_round % 2 == 0 else list(reversed(sides))
            for side in order:
                said = f"{what}: {side}, round {number_of_round + 1} of {self.rounds}"
                print(said, file=sys.stderr, flush=True)
                try:
                    self.calmest(lambda: measure(side))
                except BenchError as error:
                    raise BenchError(f"{said}: {error}") from error

    def calmest(self, measure):
        """Measures until others had little of the processors meanwhile; what the calmest try added stays."""
        tries = []
        while len(tries) < TRIES and (not tries or tries[-1][0] > STOLEN_MAX):
            if tries:
                print(f"  again: others had {share(tries[-1][0])} of the processors", file=sys.stderr, flush=True)
                time.sleep(PAUSE_SECONDS)
            ticks = machine.processor_ticks()
            added = self.found.collect(measure)
            tries.append((machine.stolen_since(ticks), added))
        stolen, added = min(tries, key=lambda one: one[0])
        for key, side, durability, figures in added:
            self.found.add(key, side, durability, **figures, stolen=stolen)

    def attempt(self, part, *arguments, **named):
        """Measures a part; when it fails says so and goes on with the others."""
        try:
            part(*arguments, **named)
        except (BenchError, OSError, subprocess.SubprocessError) as error:
            self.failures += 1
            print(f"FAILED: {error}", file=sys.stderr, flush=True)

    def facts(self, *parts):
        """What has to be known of the run to read its figures; the parts that it measured learn when and how."""
        measured = {
            "begun": self.begun,
            "ended": machine.now(),
            "commit": machine.commit(),
            "load_before": round(self.load, 2),
            "rounds": self.rounds,
            "seconds": self.seconds,
        }
        for part in parts:
            part["run"] = measured
        return {
            "comparison": self.name,
            "machine": machine.describe(self.work),
            "versions": self.versions,
            "settings": self.settings,
        }

    def finish(self, loopback):
        """Prints the table and writes the raw rows. `loopback`: bytes a second of a bare copy here."""
        self.settings["loopback"] = (
            f"a bare copy over one TCP connection in 16 KiB writes: {loopback / 1e6:,.0f} MB/s"
        )
        for row in self.found.rows.values():
            for side in row["sides"].values():
                for figures in side["rounds"]:
                    if "mb" in figures:
                        figures["loopback_share"] = figures["mb"] * 1e6 * row["crossings"] / loopback
        result = {**self.facts(*self.found.rows.values()), "rows": self.found.rows}
        print(text(table(self.found.rows)))
        self.write(result)

    def finish_curves(self, curves, bars=()):
        """Prints curves as tables, with the bars they are judged by, and writes them."""
        for curve in curves.values():
            print(f"\n{curve['title']}")
            print(
                text(
                    [
                        curve["columns"],
                        *(
                            [number(value, 0 if at == 0 else None) for at, value in enumerate(point)]
                            for point in curve["points"]
                        ),
                    ]
                )
            )
        for bar in bars:
            print(
                f"bar: {bar['what']}: {bar['asks']}: {bar['measured']}: {'holds' if bar['met'] else 'MISSED'}"
            )
        self.write({**self.facts(*curves.values(), *bars), "curves": curves, "bars": list(bars)})

    def write(self, result):
        """Writes what was found below the target directory, and with --record among the results."""
        write(machine.target() / "bench" / f"{self.name}.json", result)
        if self.record:
            path = machine.ROOT / "bench" / "results" / f"{self.name}.json"
            write(
                path, merged(json.loads(path.read_text()), result) if self.only and path.exists() else result
            )
        if self.failures:
            sys.exit(f"{self.failures} parts failed")


def merged(old, new):
    """A result in which rows, curves and bars that were measured again have replaced the older ones."""
    result = {**old, **new}
    for kind in ("rows", "curves", "paths"):
        if kind in new:
            result[kind] = {**old[kind], **new[kind]}
    if "bars" in new:
        again = {bar["what"] for bar in new["bars"]}
        result["bars"] = [bar for bar in old["bars"] if bar["what"] not in again] + new["bars"]
    return result


def write(path, result):
    """Writes a result as JSON, figures rounded to what they are worth."""

    def rounded(value):
        if isinstance(value, float):
            return float(f"{value:.5g}")
        if isinstance(value, dict):
            return {key: rounded(inner) for key, inner in value.items()}
        return [rounded(inner) for inner in value] if isinstance(value, list) else value

    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rounded(result), indent=1, ensure_ascii=False) + "\n")
    print(f"raw rows: {path}", file=sys.stderr)


def arguments(parser):
    """The options of every comparison."""
    parser.add_argument("--rounds", type=int, help="rounds of each side, in turn (default 3; 2 with --quick)")
    parser.add_argument(
        "--seconds", type=float, help="seconds that each measurement lasts (default 30; 8 with --quick)"
    )
    parser.add_argument("--warm-up", type=float, help="seconds before that (default 10; 4 with --quick)")
    parser.add_argument("--quick", action="store_true", help="a first impression, no result")
    parser.add_argument(
        "--only", action="append", metavar="PART", help="only rows whose key has this in it (repeat)"
    )
    parser.add_argument(
        "--record",
        action="store_true",
        help="also write bench/results, from which bench/report makes docs/performance.md",
    )
    parser.add_argument("--broker", metavar="FILE", help="measure this build of ours instead of this tree's")
    parser.add_argument(
        "--scratch", metavar="DIR", help="where data directories are made, on the disk to be measured"
    )


def defaults(options):
    """Fills in what --quick or nothing stands for."""
    options.rounds = options.rounds or (2 if options.quick else 3)
    options.seconds = options.seconds or (8 if options.quick else 30)
    options.warm_up = options.warm_up or (4 if options.quick else 10)
    return options
