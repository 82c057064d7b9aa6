"""Programs from Maven Central, as their projects publish them."""

import hashlib
import os
import subprocess

from . import machine
from .processes import BenchError, output

PEERS = machine.ROOT / "bench" / "peers"


def artifacts(name):
    """The class path of bench/peers/NAME.xml, downloaded once."""
    pom = PEERS / f"{name}.xml"
    folder = machine.target() / "bench" / name
    stamp, want = folder / "pom.sha256", hashlib.sha256(pom.read_bytes()).hexdigest()
    if not stamp.exists() or stamp.read_text() != want:
        output(
            [
                "mvn",
                "-q",
                "-B",
                "-f",
                pom,
                "dependency:copy-dependencies",
                f"-DoutputDirectory={folder}/lib",
                "-DincludeScope=runtime",
            ]
        )
        stamp.write_text(want)
    return f"{folder}/lib/*"


def version(class_path, artifact):
    """The version in a jar's name."""
    from pathlib import Path

    jars = list(Path(class_path[:-2]).glob(f"{artifact}-[0-9]*.jar"))
    return jars[0].stem[len(artifact) + 1 :] if jars else "unknown"


def runtime():
    """The Java that runs it all."""
    said = subprocess.run(["java", "-version"], capture_output=True, text=True, check=True).stderr
    return said.splitlines()[0]


def install(*packages):
    """Installs Debian packages that are not there yet."""
    status = subprocess.run(
        ["dpkg-query", "-W", "-f=${Package} ${db:Status-Status}\n", *packages],
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    missing = [package for package in packages if f"{package} installed" not in status.splitlines()]
    if not missing:
        return
    if os.geteuid() != 0:
        raise BenchError(f"not installed: {' '.join(missing)}; apt-get install {' '.join(missing)}")
    # The peers are run from their own directories: no service of theirs shall start.
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    output(["apt-get", "update", "-q"], env=environment)
    output(["apt-get", "install", "-y", "-q", "--no-install-recommends", *missing], env=environment)


def package_version(package):
    """The installed version of a Debian package."""
    return output(["dpkg-query", "-W", "-f=${Version}", package])
