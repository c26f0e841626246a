"""Django：一个普通的视图，经 REST 以 API 密钥发送（``meeting-push key create``，范围 ``send``）。

::

    PUSH_URL=http://127.0.0.1:8000 PUSH_KEY=mpk_… python examples/django_shop.py runserver

``curl -X POST 127.0.0.1:8001/orders/7 -d what=tent``；发布者一个进程一个，各线程共用。
"""

from __future__ import annotations

import os
import sys

import django
from django.conf import settings
from django.core.management import execute_from_command_line
from django.http import HttpRequest, JsonResponse
from django.urls import path

from meeting_push.sync import Publisher

settings.configure(
    SECRET_KEY=os.urandom(32).hex(),
    ALLOWED_HOSTS=["127.0.0.1", "testserver"],
    ROOT_URLCONF=__name__,
)
django.setup()
publisher = Publisher(os.environ["PUSH_URL"], os.environ["PUSH_KEY"])


def order(request: HttpRequest, customer: int) -> JsonResponse:
    sent = publisher.send([customer], "Order received", request.POST["what"])
    return JsonResponse({"message_id": sent.message_id})


urlpatterns = [path("orders/<int:customer>", order)]

if __name__ == "__main__":
    execute_from_command_line([sys.argv[0], "runserver", "127.0.0.1:8001", "--noreload"])
