"""What is compared with: Debian's packages, and artifacts from Maven Central as their projects publish them."""

import hashlib
import os
import subprocess
from contextlib import contextmanager
from pathlib import Path

from . import machine
from .processes import BenchError, output

PEERS = machine.ROOT / "bench" / "peers"
# What dpkg asks before it starts a service that a package brings.
POLICY = Path("/usr/sbin/policy-rc.d")


def maven(name):
    """The class path of bench/peers/NAME.xml, downloaded once."""
    pom = PEERS / f"{name}.xml"
    folder = machine.target() / "bench" / name
    stamp, want = folder / "pom.sha256", hashlib.sha256(pom.read_bytes()).hexdigest()
    if not stamp.exists() or stamp.read_text() != want:
        goal = ["dependency:copy-dependencies", f"-DoutputDirectory={folder}/lib", "-DincludeScope=runtime"]
        output(["mvn", "-q", "-B", "-f", pom, *goal])
        stamp.write_text(want)
    return f"{folder}/lib/*"


def jar_version(class_path, artifact):
    """The version in a jar's name."""
    jars = list(Path(class_path[:-2]).glob(f"{artifact}-[0-9]*.jar"))
    return jars[0].stem[len(artifact) + 1 :] if jars else "unknown"


def java_version():
    """The Java that runs it all."""
    said = subprocess.run(["java", "-version"], capture_output=True, text=True, check=True).stderr
    return said.splitlines()[0]


def debian(*packages):
    """Installs packages that are not there yet; none of their services is started."""
    query = ["dpkg-query", "-W", "-f=${Package} ${db:Status-Status}\n", *packages]
    status = subprocess.run(query, capture_output=True, text=True, check=False).stdout.splitlines()
    missing = [package for package in packages if f"{package} installed" not in status]
    if not missing:
        return
    if os.geteuid() != 0:
        raise BenchError(f"not installed: {' '.join(missing)}; apt-get install {' '.join(missing)}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    with no_services():
        output(["apt-get", "update", "-q"], env=environment)
        output(["apt-get", "install", "-y", "-q", "--no-install-recommends", *missing], env=environment)


@contextmanager
def no_services():
    """Keeps packages from starting what they bring: the peers run from directories of the harness."""
    if POLICY.exists():
        yield
        return
    POLICY.write_text("#!/bin/sh\nexit 101\n")
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        POLICY.unlink()


def debian_version(package):
    """The installed version of a package."""
    return output(["dpkg-query", "-W", "-f=${Version}", package])
