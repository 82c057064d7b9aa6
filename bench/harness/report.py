"""Makes docs/performance.md and its plots from bench/results."""

import json
import sys

from . import machine, plot
from .measure import OURS, number, of, rate, ratio, share, verdicts

RESULTS = machine.ROOT / "bench" / "results"
PAGE = machine.ROOT / "docs" / "performance.md"
PLOTS = machine.ROOT / "docs" / "performance"
# Why a bar is missed, and what it would take: written by hand.
GAPS = machine.ROOT / "bench" / "gaps.md"
COMPARISONS = {"kafka": "Kafka", "rabbitmq": "RabbitMQ", "mosquitto": "Mosquitto"}
# Columns of curves that are drawn.
PLOTTED = {
    "MB of memory",
    "bytes of memory each",
    "messages/s",
    "records/s",
    "restart s",
    "to a queue MB/s",
    "to a topic MB/s",
}
HEAD = """\
# Performance

Measured side by side with the systems that Posthaste replaces, and with the bare machine. `bench/report` makes this page
from `bench/results/`; [bench/README.md](../bench/README.md) says what is measured and how, and how to repeat it.

Client and broker share the machine in every figure, so a slow client hides a fast broker: the column *CPU* is what
the broker alone spends. *Median* and *spread* are over the rounds, which alternate between the systems. *p99* was measured in
runs of their own, at half of the peer's best rate. *Of the floor* is the share of what a bare loop of `pwrite` and
`fdatasync` with the same commits carries on the same disk, *of loopback* that of a bare copy of the payloads' bytes over TCP.
*Stolen* is the share of the processors' time that the hypervisor gave to other machines meanwhile, in the round in which
that was most.
"""


def cells(words):
    """A line of a Markdown table."""
    return "| " + " | ".join(words) + " |\n"


def comparison(result):
    """One comparison: bars, table, settings."""
    out = bars(result["rows"].values())
    out += cells(
        [
            "work",
            "system",
            "durability",
            "median",
            "spread",
            "ours ÷ it",
            "p50 ms",
            "p99 ms",
            "CPU µs",
            "of the floor",
            "of loopback",
            "stolen",
        ]
    )
    out += "|---|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n"
    for row in result["rows"].values():
        title = f"{row['title']}, {row['unit']}"
        for side in sorted(row["sides"], key=lambda name: (name != OURS, name)):
            against = ratio(row, side) if side != OURS else None
            out += cells(
                [
                    title,
                    side,
                    row["sides"][side]["durability"],
                    rate(row, side),
                    f"{number(of(row, side, 'rate', min))}–{number(of(row, side, 'rate', max))}",
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
    return out + "\n" + facts(result)


def bars(rows):
    """What was to be reached, and whether it was."""
    found = [(row["title"], *verdict) for row in rows for verdict in verdicts(row)]
    if not found:
        return ""
    out = cells(["bar", "asks", "measured", ""]) + "|---|---|--:|---|\n"
    for title, what, measured, met in found:
        out += cells([title, what, measured, "holds" if met else "**missed**"])
    return out + "\n"


def facts(result):
    """How it was measured."""
    parts = [part for kind in ("rows", "curves", "paths") for part in result.get(kind, {}).values()]
    runs = list({json.dumps(part["run"], sort_keys=True): part["run"] for part in parts}.values())
    out = ""
    for run in runs:
        which = (
            "" if len(runs) == 1 else ": " + "; ".join(part["title"] for part in parts if part["run"] == run)
        )
        out += f"- measured {run['begun']} to {run['ended']}, commit {run['commit']}, {run['rounds']} round{'s' if run['rounds'] > 1 else ''} of "
        out += f"{run['seconds']:g} s, load of the machine before {run['load_before']:g}{which}\n"
    out += "".join(
        f"- {name}: {value}\n" for name, value in {**result["versions"], **result["settings"]}.items()
    )
    command = f"bench/{result['comparison']} --rounds {runs[-1]['rounds']} --seconds {runs[-1]['seconds']:g}"
    return out + f"- to repeat: `{command}`\n"


def chart(name, result):
    """Bars of our rate and the peers', relative to the best peer's."""
    groups = []
    for row in result["rows"].values():
        peers = [of(row, side, "rate") for side in row["sides"] if side != OURS]
        best = max((rate for rate in peers if rate), default=None)
        if best and of(row, OURS, "rate"):
            groups.append(
                (
                    row["title"],
                    [
                        (side, of(row, side, "rate") / best)
                        for side in sorted(row["sides"], key=lambda side: (side != OURS, side))
                    ],
                )
            )
    file = f"{name}.svg"
    (PLOTS / file).write_text(plot.bars(groups, "times the best peer"))
    return f"![{COMPARISONS[name]}: rates relative to the best peer](performance/{file})\n\n"


def scale(result):
    """The curves: a table and a plot for each."""
    out = ""
    if result["bars"]:
        out = cells(["bar", "asks", "measured", ""]) + "|---|---|--:|---|\n"
        out += (
            "".join(
                cells([bar["what"], bar["asks"], bar["measured"], "holds" if bar["met"] else "**missed**"])
                for bar in result["bars"]
            )
            + "\n"
        )
    for key, curve in result["curves"].items():
        out += f"### {curve['title']}\n\n"
        if curve.get("note"):
            out += curve["note"] + "\n\n"
        columns = curve["columns"]
        out += cells(columns) + "|" + "--:|" * len(columns) + "\n"
        for point in curve["points"]:
            out += cells([number(value, 0 if at == 0 else None) for at, value in enumerate(point)])
        plots = []
        for at, column in enumerate(columns):
            points = [(point[0], point[at]) for point in curve["points"] if point[0]]
            if len(points) > 1 and column in PLOTTED:
                file = f"scale-{key}-{at}.svg"
                (PLOTS / file).write_text(plot.line(points, columns[0], column))
                plots.append(f"![{column} by {columns[0]}](performance/{file})")
        out += "\n" + "\n".join(plots) + "\n" if plots else ""
        out += "\n"
    return out + facts(result) + "\n"


def profiles(result):
    """Where the time goes: system calls, the kernel's share, and the functions that run most."""
    out = cells(["path", "messages/s", "system calls for 1,000 messages", "in the kernel", "most frequent calls, for 1,000 messages"])
    out += "|---|--:|--:|--:|---|\n"
    for path in result["paths"].values():
        frequent = [f"{name} {number(count * 1000)}" for name, count in list(path["by_name"].items())[:5]]
        out += cells(
            [
                path["title"],
                number(path["rate"], 0),
                number(path["calls"] * 1000),
                share(path["kernel"]),
                ", ".join(frequent),
            ]
        )
    out += "\nFunctions by the share of the broker's processor time that they ran themselves:\n\n"
    for path in result["paths"].values():
        ran = [f"`{name}` {share(part)}" for name, part in path["functions"]]
        out += f"- {path['title']}: {', '.join(ran)}\n"
    return out + "\n" + facts(result)


def page(results):
    """The whole page."""
    out = HEAD
    if not results:
        return out + "\nNothing was recorded yet.\n"
    found = next(iter(results.values()))["machine"]
    out += "\n## The machine\n\n" + "".join(f"- {name}: {value}\n" for name, value in found.items())
    for name, title in COMPARISONS.items():
        if name in results:
            out += f"\n## {title}\n\n" + chart(name, results[name]) + comparison(results[name])
    for name, title in {"scale": "Scale", "recovery": "Recovery"}.items():
        if name in results:
            out += f"\n## {title}\n\n" + scale(results[name])
    if GAPS.exists():
        out += "\n## What is missed, and why\n\n" + GAPS.read_text()
    if "profile" in results:
        out += "\n## Where the time goes\n\n" + profiles(results["profile"])
    return out.rstrip("\n") + "\n"


def main():
    """The command."""
    results = {path.stem: json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))}
    PLOTS.mkdir(parents=True, exist_ok=True)
    for old in PLOTS.glob("*.svg"):
        old.unlink()
    PAGE.write_text(page(results))
    print(f"{PAGE}: {len(results)} results", file=sys.stderr)
