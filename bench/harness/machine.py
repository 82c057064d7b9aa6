"""What was measured on, and with which versions: without these a figure means nothing."""

import datetime
import os
import platform
from pathlib import Path

from .processes import output

ROOT = Path(__file__).resolve().parents[2]


def target():
    """Where builds, downloads and raw results go."""
    return Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).absolute()


def describe(directory):
    """Facts about this machine and about the disk that holds a directory."""
    cpu = [
        line.split(": ", 1)[1]
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    memory = next(
        int(line.split()[1])
        for line in Path("/proc/meminfo").read_text().splitlines()
        if line.startswith("MemTotal:")
    )
    return {
        "processor": f"{os.cpu_count()} × {cpu[0] if cpu else platform.machine()}",
        "memory": f"{memory / (1 << 20):.0f} GiB",
        "kernel": platform.release(),
        "system": system(),
        "disk": disk(directory),
    }


def system():
    """The distribution's name."""
    for line in Path("/etc/os-release").read_text().splitlines():
        if line.startswith("PRETTY_NAME="):
            return line.split("=", 1)[1].strip('"')
    return platform.system()


def disk(directory):
    """Device and file system of the mount that holds a directory."""
    directory = Path(directory).resolve()
    best = ("", "unknown")
    for line in Path("/proc/mounts").read_text().splitlines():
        device, point, kind = line.split()[:3]
        inside = directory == Path(point) or Path(point) in directory.parents
        if inside and len(point) >= len(best[0]):
            best = (point, f"{device}, {kind}")
    return best[1]


def load():
    """Runnable tasks, one minute's average: above the number of processors the machine is not quiet."""
    return os.getloadavg()[0]


def processor_ticks():
    """Of all processors since boot: all ticks, and those in which the hypervisor let somebody else run."""
    ticks = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return sum(ticks), ticks[7]


def stolen_since(before):
    """The share of the processors' time that went to others since `before` was taken."""
    ticks, stolen = (now - then for now, then in zip(processor_ticks(), before))
    return stolen / max(ticks, 1)


def now():
    """The time, UTC, to the second."""
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def commit():
    """The commit that was built, with a mark when files were changed since."""
    name = output(["git", "rev-parse", "--short=12", "HEAD"], cwd=ROOT).strip()
    changed = output(["git", "status", "--porcelain", "--", "crates", "Cargo.lock"], cwd=ROOT).strip()
    return name + (" and changes" if changed else "")
