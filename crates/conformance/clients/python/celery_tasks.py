"""The tasks that amqp_celery.py has a worker run."""

import os

from celery import Celery

app = Celery("tasks", broker=os.environ["CONFORMANCE_AMQP_URL"], backend="rpc://")
app.conf.update(
    broker_connection_retry_on_startup=True,
    task_acks_late=True,
    task_default_queue=os.environ["CONFORMANCE_CELERY_QUEUE"],
    worker_prefetch_multiplier=1,
    result_expires=600,
)


@app.task
def add(left, right):
    return left + right


@app.task
def fail():
    raise ValueError("on purpose")


@app.task(bind=True, max_retries=3, default_retry_delay=0.2)
def third_time(self):
    if self.request.retries < 2:
        raise self.retry()
    return self.request.retries
