"""Flask + Celery：请求里只排任务，任务在工人里发送；重做的任务带着同一个幂等键，不会发成两条。

::

    export PUSH_URL=http://127.0.0.1:8000 PUSH_KEY=mpk_… BROKER=redis://127.0.0.1:6379/1
    celery --app examples.flask_celery:tasks worker &
    flask --app examples/flask_celery.py run
"""

from __future__ import annotations

import os
from functools import cache

from celery import Celery, Task
from flask import Flask, request

from meeting_push import MeetingPushError
from meeting_push.sync import Publisher

app = Flask(__name__)
tasks = Celery(__name__, broker=os.environ["BROKER"])
if folder := os.environ.get("BROKER_FOLDER"):  # filesystem://，不必另起一个队列
    tasks.conf.broker_transport_options = {"data_folder_in": folder, "data_folder_out": folder}


@cache
def publisher() -> Publisher:
    return Publisher(os.environ["PUSH_URL"], os.environ["PUSH_KEY"])


@tasks.task(bind=True, max_retries=10)
def notify(task: Task, customer: int, what: str) -> str:
    try:
        key = task.request.id
        sent = publisher().send([customer], "Order received", what, idempotency_key=key)
    except MeetingPushError as error:
        if error.temporary:
            raise task.retry(exc=error, countdown=5) from error
        raise
    return sent.message_id


@app.post("/orders/<int:customer>")
def order(customer: int) -> dict[str, str]:
    return {"task": notify.delay(customer, request.form["what"]).id}
