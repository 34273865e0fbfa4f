"""The MES's side: subscribes, keeps every result, checks it against the published schema, counts ids."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jsonschema
import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion


@dataclass(frozen=True, slots=True)
class Result:
    """One result message as it came in; `at` is the wall clock (s)."""

    id: str
    camera: str
    name: str
    sha256: str
    verdict: str
    reason: str
    at: float
    body: bytes


class Mes:
    """Keeps what it gets in `results` (every arrival, in order); `say` is called with one line for each."""

    def __init__(self, port: int, base: str, schema: dict[str, Any], say: Callable[[str], None]) -> None:
        self.results: list[Result] = []
        self.schema_errors: list[str] = []
        self._validator = jsonschema.Draft202012Validator(schema)
        self._say = say
        self._subscribed = threading.Event()
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="demo-mes", protocol=mqtt.MQTTv5)
        self._client.on_connect = lambda client, *_: client.subscribe([(f"{base}/result/#", 1), (f"{base}/event/#", 1)])
        self._client.on_subscribe = lambda *_: self._subscribed.set()
        self._client.on_message = self._received
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        if not self._subscribed.wait(10):
            raise SystemExit("the broker did not take the MES's subscription in 10 s")

    def _received(self, _client: mqtt.Client, _data: Any, message: mqtt.MQTTMessage) -> None:
        body = json.loads(message.payload)
        if "/event/" in message.topic:
            self._say(f"      event  {message.topic.rpartition('/')[2]}")
            return
        for error in self._validator.iter_errors(body):
            self.schema_errors.append(f"{body.get('id')}: {error.message}")
        data = body["data"]
        image = data["image"]
        found = Result(
            body["id"],
            data["equipment"]["camera"],
            image["name"],
            image["sha256"],
            data["verdict"],
            data["reason"],
            time.time(),
            message.payload,
        )
        self.results.append(found)
        classes = ", ".join(sorted({defect["class"] for defect in data["defects"]})) or "-"
        self._say(f"{int(body['sequence']):5d}  {found.verdict:6}  {found.camera:5}  {found.name:34.34}  {found.reason:28.28}  {classes}")

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()
