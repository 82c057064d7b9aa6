"""Celery: a worker process and a client, with results over rpc://."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from check import Checks, equal, require, unique, wait_until

checks = Checks("amqp")
os.environ["CONFORMANCE_AMQP_URL"] = f"amqp://guest:guest@{checks.address}//"
os.environ["CONFORMANCE_CELERY_QUEUE"] = unique("celery")

from celery import chain, group  # noqa: E402 - the tasks read the environment

from celery_tasks import add, app, fail, third_time  # noqa: E402

log = tempfile.NamedTemporaryFile("w+", suffix=".log")
command = [sys.executable, "-m", "celery", "-A", "celery_tasks", "worker"]
command += ["--pool", "solo", "--loglevel", "INFO", "--hostname", f"{unique('worker')}@local"]
worker = subprocess.Popen(command, cwd=Path(__file__).parent, stdout=log, stderr=subprocess.STDOUT)


@checks.case("worker starts")
def _():
    def started():
        require(worker.poll() is None, f"the worker ended with {worker.returncode}")
        return app.control.ping(timeout=0.5)

    wait_until(started, "the worker answers a ping", 60)


@checks.case("task and result")
def _():
    equal(add.delay(2, 3).get(timeout=30), 5, "result")


@checks.case("chain and group")
def _():
    equal(chain(add.s(1, 2), add.s(10))().get(timeout=30), 13, "chain")
    equal(group(add.s(n, n) for n in range(20))().get(timeout=30), [2 * n for n in range(20)], "group")


@checks.case("error result")
def _():
    try:
        fail.delay().get(timeout=30)
    except ValueError as error:
        equal(str(error), "on purpose", "text")
    else:
        raise AssertionError("no error came back")


@checks.case("countdown and retry")
def _():
    equal(add.apply_async((1, 1), countdown=0.5).get(timeout=30), 2, "countdown")
    equal(third_time.delay().get(timeout=30), 2, "retries")


@checks.case("remote control")
def _():
    replies = app.control.inspect(timeout=5).registered()
    require(replies and "celery_tasks.add" in next(iter(replies.values())), f"replies {replies}")


@checks.case("warm shutdown")
def _():
    worker.terminate()
    worker.wait(30)
    equal(worker.returncode, 0, "exit status")


if worker.poll() is None:
    worker.kill()
if checks.failed:
    log.seek(0)
    sys.stderr.write(log.read()[-8000:])
checks.finish()
