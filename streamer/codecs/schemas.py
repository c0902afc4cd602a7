"""The messages as an AsyncAPI 3.0 document with their JSON Schemas, generated from the types that are published.

`python -m streamer.codecs.schemas` prints it; `docs/asyncapi.json` is that output, and a test keeps it so.
Source: AsyncAPI 3.0.0 specification; JSON Schema 2020-12.
"""

from __future__ import annotations

import inspect
import json
from typing import Any

import msgspec

from streamer.codecs.messages import STREAM_EVENT_TYPES, TYPES, Role, StreamEvent

TOPICS: dict[Role, str] = {
    "transcripts": "What is being said: partial transcripts, each superseded by the next, and final ones.",
    "predictions": "What the model says of every input record.",
    "alerts": "What needs somebody's attention: firing, and resolved under the same id.",
    "streams": "What befell a stream: started, gap, reset, model_changed, ended.",
    "deadletters": "Records that could not be used: their original value, key and headers, with the reason.",
}

HEADERS: dict[str, str] = {
    "ce_specversion": "1.0",
    "ce_id": "input topic/partition/offset/kind/n: the same when an input is answered again, so drop duplicates by it",
    "ce_source": "application/group/pipeline/role",
    "ce_type": "the type of the message",
    "ce_subject": "the input record's key",
    "ce_time": "event time, RFC 3339 in UTC",
    "content-type": "application/json",
    "model": "name-version@fingerprint of the network",
}


def asyncapi() -> dict[str, Any]:
    """The document, with the default names of the topics."""
    bodies = [*TYPES, StreamEvent]
    _, components = msgspec.json.schema_components(bodies, ref_template="#/components/schemas/{name}")
    messages = {body.__name__: _message(body) for body in bodies}
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "streamer",
            "version": "1",
            "description": "CloudEvents 1.0 in Kafka binary mode. The default topic names; a pipeline may set others.",
        },
        "defaultContentType": "application/json",
        "channels": {role: _channel(role, bodies) for role in TOPICS},
        "operations": {
            f"publish-{role}": {"action": "send", "channel": {"$ref": f"#/channels/{role}"}} for role in TOPICS
        },
        "components": {"messages": messages, "schemas": components},
    }


def _message(body: type) -> dict[str, Any]:
    types = list(STREAM_EVENT_TYPES.values()) if body is StreamEvent else [TYPES[body][0]]
    headers: dict[str, dict[str, Any]] = {
        name: {"type": "string", "description": meaning} for name, meaning in HEADERS.items()
    }
    headers["ce_type"]["enum"] = types
    return {
        "name": body.__name__,
        "summary": inspect.cleandoc(body.__doc__ or "").split("\n")[0],
        "headers": {"type": "object", "properties": headers, "required": [*HEADERS]},
        "payload": {"$ref": f"#/components/schemas/{body.__name__}"},
    }


def _channel(role: Role, bodies: list[type]) -> dict[str, Any]:
    roles: dict[type, Role] = {body: kind[2] for body, kind in TYPES.items()}
    roles[StreamEvent] = "streams"
    inside = [body.__name__ for body in bodies if roles[body] == role]
    messages = {name: {"$ref": f"#/components/messages/{name}"} for name in inside}
    return {"address": role, "description": TOPICS[role], "messages": messages}


if __name__ == "__main__":
    print(json.dumps(asyncapi(), indent=2))
