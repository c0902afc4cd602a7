"""A TCP proxy between Kafka's clients and a broker: it cuts, slows, swallows and holds back what passes.

It knows just enough of Kafka's protocol to pass whole messages and to tell what a request asks for: its length, the
number of what is asked, and the number by which its answer is found.
"""

from __future__ import annotations

import asyncio
import random
import struct
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Self, TypeVar

T = TypeVar("T")
_HEAD = struct.Struct(">ihhi")
"""Of a request: length without itself, what is asked, its version, its number. Of an answer: length, and its number."""
_PIECE_S = 0.02


class Asks(IntEnum):
    """Kafka's numbers of requests (https://kafka.apache.org/protocol#protocol_api_keys). BEGIN: InitProducerId."""

    PRODUCE = 0
    METADATA = 3
    BEGIN = 22
    ADD_PARTITIONS = 24
    ADD_OFFSETS = 25
    END_TRANSACTION = 26
    COMMIT_OFFSETS = 28


@dataclass(slots=True, eq=False)
class Link:
    """A client's connection and the one to the broker that belongs to it. asked: what by which number."""

    client: asyncio.StreamWriter
    broker: asyncio.StreamWriter
    asked: dict[int, int] = field(default_factory=dict)

    def cut(self) -> None:
        """Reset both."""
        for writer in (self.client, self.broker):
            writer.transport.abort()


@dataclass(slots=True)
class Faults:
    """What befalls messages now. bytes_per_s: of each connection and direction.

    silent: directions that pass nothing. hold_s: by which time the answers to requests for `held` come late.
    late_s: a share of the requests for `late`, or so many of them, reach the broker so much later, and the client finds
    its connection cut at once. kept: requests that wait for the next faults.
    """

    bytes_per_s: float | None = None
    silent_up: bool = False
    silent_down: bool = False
    held: frozenset[int] = frozenset()
    hold_s: float = 0.0
    late: frozenset[int] = frozenset()
    late_s: float = 0.0
    late_share: float = 1.0
    late_times: int = 1_000_000
    kept: frozenset[int] = frozenset()
    refused: bool = False


class Proxy:
    """Listens on `port`, connects to `target()`, both on 127.0.0.1, on a thread of its own."""

    def __init__(self, port: int, target: Callable[[], int]) -> None:
        self._port, self._target = port, target
        self._faults = Faults()
        self._draw = random.Random(port)
        self._changed = asyncio.Event()
        self._links: set[Link] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._pumps: set[asyncio.Task[None]] = set()
        self.struck = self.refused = 0
        """How many messages were held back or came late or connections were cut, and how many were refused."""

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = self._do(asyncio.start_server(self._serve, "127.0.0.1", self._port))
        return self

    def __exit__(self, *_: object) -> None:
        self._do(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def cut(self, draw: random.Random, share: float = 1.0) -> int:
        """Reset this share of all connections, wherever their messages are; how many."""
        return self._do(self._cut(draw, share))

    def set(self, faults: Faults) -> None:
        """From now on these faults, and no others."""
        self._do(self._set(faults))

    def heal(self, *, forget: bool = False) -> None:
        """No fault any more. What was swallowed comes now; forget: its connections are cut instead."""
        if forget:
            self.cut(random.Random(0))
        self.set(Faults())

    # ------------------------------------------------------------------ on the proxy's thread

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _stop(self) -> None:
        self._server.close()
        for pump in self._pumps:
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)
        await self._cut(random.Random(0), 1.0)

    async def _set(self, faults: Faults) -> None:
        self._faults = faults
        self._changed.set()
        self._changed = asyncio.Event()

    async def _cut(self, draw: random.Random, share: float) -> int:
        chosen = [link for link in self._links if draw.random() < share]
        for link in chosen:
            link.cut()
        self.struck += len(chosen)
        return len(chosen)

    async def _serve(self, from_client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        if self._faults.refused:
            self.refused += 1
            to_client.transport.abort()
            return
        try:
            from_broker, to_broker = await asyncio.open_connection("127.0.0.1", self._target())
        except OSError:
            to_client.transport.abort()
            return
        link = Link(to_client, to_broker)
        self._links.add(link)
        both = [self._pump(link, from_client, self._ask), self._pump(link, from_broker, self._answer)]
        pumps = [asyncio.create_task(pump) for pump in both]
        self._pumps.update(pumps)
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        link.cut()
        for pump in pumps:
            pump.cancel()
        self._pumps.difference_update(pumps)
        self._links.discard(link)

    async def _pump(
        self,
        link: Link,
        source: asyncio.StreamReader,
        take: Callable[[Link, bytes], Coroutine[Any, Any, None]],
    ) -> None:
        """Pass one message after the other until either side has gone."""
        with suppress(OSError, asyncio.IncompleteReadError):
            while True:
                head = await source.readexactly(4)
                await take(link, head + await source.readexactly(int.from_bytes(head, "big")))

    async def _ask(self, link: Link, message: bytes) -> None:
        _, asks, _, number = _HEAD.unpack_from(message)
        while self._faults.silent_up or asks in self._faults.kept:
            await self._changed.wait()
        if self._is_late(asks):
            await self._deliver_late(link, message)
            return
        if asks in self._faults.held:
            link.asked[number] = asks
        await self._send(link.broker, message)

    async def _answer(self, link: Link, message: bytes) -> None:
        number = int.from_bytes(message[4:8], "big", signed=True)
        while self._faults.silent_down:
            await self._changed.wait()
        if link.asked.pop(number, None) in self._faults.held:
            self.struck += 1
            await asyncio.sleep(self._faults.hold_s)
        await self._send(link.client, message)

    def _is_late(self, asks: int) -> bool:
        now = self._faults
        late = asks in now.late and now.late_times > 0 and self._draw.random() < now.late_share
        now.late_times -= late
        return late

    async def _deliver_late(self, link: Link, message: bytes) -> None:
        self.struck += 1
        delay_s = self._faults.late_s
        link.client.transport.abort()
        await asyncio.sleep(delay_s)
        await self._send(link.broker, message)
        await asyncio.sleep(delay_s)  # the broker would not answer one who has hung up

    async def _send(self, to: asyncio.StreamWriter, message: bytes) -> None:
        sent = 0
        while (speed := self._faults.bytes_per_s) is not None and sent < len(message):
            piece = max(1, int(speed * _PIECE_S))
            to.write(message[sent : sent + piece])
            await to.drain()
            sent += piece
            await asyncio.sleep(_PIECE_S)
        to.write(message[sent:])
        await to.drain()
