"""Calls over HTTP: redirects to the leader, safe retries, and errors that say what was tried.

A call is repeated only where that is safe. An attempt fails either before its request was sent
whole (`sent` is False: nothing happened) or afterwards (it may have happened):

    failure                      repeatable call        any other call
    outcome unknown (504)        again, after a pause   WriteUnknown
    not sent, or refused         again, after a pause   again, after a pause
    sent, answer lost            again, after a pause   OutcomeUnknown
    sent, no answer in `timeout` ConnectionFailed for a read, OutcomeUnknown for a write

What is repeated is repeated `retries` times, and in a cluster for FAILOVER seconds at least: a node
that is being replaced is a delay.
"""

from __future__ import annotations

import os
import random
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn, cast
from urllib.parse import urljoin

from nearql.client.arrow_stream import BadStream
from nearql.client.errors import ConnectionFailed, OutcomeUnknown, ProtocolError, UsageError
from nearql.client.http1 import BadResponse, ResponseParser, request_head
from nearql.client.http_stream import HttpBatches
from nearql.client.network import (
    Address,
    AsyncNetwork,
    BlockingNetwork,
    Limits,
    Link,
    Step,
    Steps,
)
from nearql.client.nodes import Nodes
from nearql.client.transport import Answer, Call
from nearql.client.wire import Request, Response, decode, decode_stream, encode, is_arrow

if TYPE_CHECKING:
    Network = BlockingNetwork | AsyncNetwork
    StreamAnswer = tuple[int, dict[str, Any], HttpBatches | None]

REDIRECTS = 5
REFUSED = frozenset({429, 503})  # the node did nothing and says so
PAUSE_FIRST = 0.05  # seconds before the second attempt; doubles each time, with jitter
PAUSE_LONGEST = 2.0
FAILOVER = 15.0  # seconds; a new primary takes writes within 6
RETRY_AFTER_LONGEST = 5.0  # seconds that a node's Retry-After is followed at most
UNTRUSTED = "certificate that is not trusted"
SMALL_BODY = 65_536  # up to this many bytes, head and body leave in one send
FRESH = 1.0  # seconds idle after which a call that can't be repeated gets a new connection


class Failure(Exception):
    """An attempt without an answer. sent: the node may have acted on it."""

    def __init__(self, address: Address, reason: str, *, sent: bool, final: bool = False) -> None:
        super().__init__(reason)
        self.address = address
        self.sent = sent
        self.final = final  # trying again can't help
        self.stale = False  # an idle connection that the node had closed: try again at once


@dataclass
class HttpTransport:
    """Calls over kept-alive HTTP connections.

    Args:
        url: a node's address; those of several nodes as a list, or with commas between.
        token: sent as `Authorization: Bearer`.
        retries: how often a call that is safe to repeat is tried again.
        ca_file: certificates (PEM) to trust instead of the system's.
    """

    url: str | Sequence[str]
    token: str | None = None
    limits: Limits = Limits()
    retries: int = 4
    ca_file: str | None = None
    jitter: Callable[[], float] = random.random  # share of the variable half of a pause

    def __post_init__(self) -> None:
        urls = self.url.split(",") if isinstance(self.url, str) else self.url
        self.nodes = Nodes([Address.parse(each.strip()) for each in urls], jitter=self.jitter)
        self._headers = [("user-agent", "nearql-python")]
        if self.token is not None:
            if not (self.token.isascii() and self.token.isprintable() and self.token.strip()):
                raise UsageError(
                    "The token is empty or contains a character that no token has, such as a line "
                    "break; read it with .strip()."
                )
            self._headers.append(("authorization", f"Bearer {self.token}"))
        self._blocking = BlockingNetwork(self.limits, self.ca_file)
        self._async = AsyncNetwork(self.limits, self.ca_file)

    def __repr__(self) -> str:
        return f"HttpTransport({self.name!r})"  # never the token

    @property
    def name(self) -> str:
        """The addresses given to `connect`."""
        return ", ".join(map(str, self.nodes.given))

    def call(self, call: Call) -> Answer:
        """Do one call, blocking."""
        answer: Answer = self._blocking.run(self._attempts(call, self._blocking))
        return answer

    async def acall(self, call: Call) -> Answer:
        """Do one call from asyncio."""
        return await self._async.run(self._attempts(call, self._async))

    def stream(self, call: Call) -> StreamAnswer:
        """Do one call, blocking, up to the first rows; the rest is read from the batches."""
        steps: Steps[StreamAnswer] = self._attempts(call, self._blocking, streamed=True)
        return self._blocking.run(steps)

    async def astream(self, call: Call) -> StreamAnswer:
        """`stream` from asyncio."""
        return await self._async.run(self._attempts(call, self._async, streamed=True))

    def close(self) -> None:
        """Close all connections."""
        self._blocking.close()

    async def aclose(self) -> None:
        """Close all connections."""
        await self._async.close()

    def _attempts(self, call: Call, network: Network, *, streamed: bool = False) -> Steps[Any]:
        """Try until there is an answer, as often as it is safe."""
        request = encode(call)
        failures: list[Failure] = []
        tried: set[Address] = set()
        refused, until = 0, time.monotonic() + FAILOVER
        while True:
            retry_after, stale = 0.0, False
            address = self.nodes.choose(writes=call.writes, tried=tried)
            try:
                answer = yield from self._follow(call, request, address, network, streamed)
                spent = refused >= self.retries and not self._waits(until)
                if spent or not (_was_refused(answer) or _may_repeat(call, answer)):
                    return answer
                refused += 1
                retry_after = _retry_after(answer)
                tried.add(address)
            except Failure as failure:
                failures.append(failure)
                stale = failure.stale
                if not stale:
                    self.nodes.failed(failure.address)
                    tried |= {address, failure.address}
                self._judge(call, failures, tried, until)
            self.nodes.leader = None
            if not stale and not self.nodes.has_other(tried):
                tried.clear()
                yield Step("pause", (self._pause(len(failures) + refused, retry_after),))

    def _waits(self, until: float) -> bool:
        """Whether a cluster is given more time to replace a node."""
        return self.nodes.is_cluster and time.monotonic() < until

    def _judge(
        self, call: Call, failures: list[Failure], tried: set[Address], until: float
    ) -> None:
        """Return if the call may be tried again, else raise what the caller is told."""
        last = failures[-1]
        # Another node may answer; a write that is repeated there is known by its request id.
        elsewhere = self.nodes.has_other(tried) and (not call.writes or self.nodes.is_cluster)
        final = last.final and not elsewhere
        spent = len(failures) > self.retries and not self._waits(until)
        if final or spent or (last.sent and not call.repeatable):
            give_up(call, failures)

    def _pause(self, attempt: int, retry_after: float) -> float:
        half: float = min(PAUSE_LONGEST, PAUSE_FIRST * 2.0 ** (attempt - 1)) / 2
        return max(half + half * self.jitter(), retry_after)

    def _follow(
        self, call: Call, request: Request, address: Address, network: Network, streamed: bool
    ) -> Steps[Any]:
        """Send to a node, following its redirects to the leader with the token kept."""
        first = address
        for _ in range(REDIRECTS + 1):
            exchange = self._exchange_head if streamed else self._exchange
            response = yield from exchange(call, request, address, network)
            self.nodes.answered(address)
            if "nearql-nodes" in response.headers:
                self.nodes.learn(response.headers["nearql-nodes"])
            if response.status != 307:
                if response.status == 401:
                    return self._unauthenticated(decode(call, response, str(address)), address)
                return (decode_stream if streamed else decode)(call, response, str(address))
            address = self._redirected(address, request, response)
            if call.writes:
                self.nodes.leader = address
        raise ProtocolError(
            f"{first} redirects in a circle (last to {address}). Check "
            "node.advertise_url of the cluster's nodes."
        )

    def _unauthenticated(self, answer: Answer, address: Address) -> Answer:
        """The answer with what to do about it."""
        status, body, table = answer
        remedy = (
            "This connection brings none: give connect(..., token=...); the command line takes "
            "NEARQL_TOKEN, NEARQL_TOKEN_FILE or --token-file."
            if self.token is None
            else "Check the token that this connection was given."
        )
        said = str(body.get("detail", "")).rstrip()
        return status, {**body, "detail": f"{address}: {said} {remedy}"}, table

    def _redirected(self, address: Address, request: Request, response: Response) -> Address:
        route = request.target.split("?")[0]
        location = response.headers.get("location", "")
        target = urljoin(f"{address}{route}", location).split("?")[0]
        if not location or not target.endswith(route):
            raise ProtocolError(f"{address} redirects to {location!r}, which is not {route}.")
        leader = Address.parse(target.removesuffix(route))
        if address.scheme == "https" and leader.scheme == "http":
            raise ProtocolError(
                f"{address} redirects to {leader}, where the token would travel unencrypted. "
                "Set node.advertise_url of that node to its https address."
            )
        if not self.nodes.is_known(leader):
            raise ProtocolError(
                f"{address} redirects to {leader}, which is none of the cluster's nodes; neither "
                "the request nor a token was sent there. Check node.advertise_url of the nodes."
            )
        return leader

    def _exchange(
        self, call: Call, request: Request, address: Address, network: Network
    ) -> Steps[Response]:
        """One request and its response on one connection, which is kept if it can be."""
        link = yield from self._connect(call, address, network)
        parser = ResponseParser()
        kept = False
        try:
            yield from self._send(link, request)
            yield from self._receive(link, parser)
            kept = parser.reusable
        except (OSError, BadResponse) as error:
            raise self._failed(link, parser, error) from error
        finally:
            network.put(link) if kept else network.shut(link)
        assert parser.status is not None
        return Response(parser.status, parser.headers, parser.body)

    def _exchange_head(
        self, call: Call, request: Request, address: Address, network: Network
    ) -> Steps[Response]:
        """As `_exchange`, but of an answer with rows only the schema is received."""
        link = yield from self._connect(call, address, network)
        parser = ResponseParser()
        try:
            yield from self._send(link, request)
            while parser.status is None:
                parser.feed((yield Step("receive", (link,))))
            if is_arrow(Response(parser.status, parser.headers, b"")):
                batches = HttpBatches(link, parser, network)
                yield from batches.receive_schema()
                return Response(parser.status, parser.headers, b"", batches)
            yield from self._receive(link, parser)
        except BaseException as error:
            network.shut(link)
            if isinstance(error, OSError | BadResponse | BadStream):
                raise self._failed(link, parser, error) from error
            raise
        network.put(link) if parser.reusable else network.shut(link)
        return Response(parser.status, parser.headers, parser.body)

    def _connect(self, call: Call, address: Address, network: Network) -> Steps[Link]:
        link = network.take(address, self.limits.idle_expiry if call.repeatable else FRESH)
        if link is not None:
            return link
        try:
            return cast("Link", (yield Step("open", (address,))))
        except OSError as error:
            final = hasattr(error, "verify_message")
            raise Failure(address, _reason(error), sent=False, final=final) from error

    def _send(self, link: Link, request: Request) -> Steps[None]:
        headers = [
            ("host", link.address.authority),
            *self._headers,
            *request.headers,
            ("content-length", str(len(request.body))),
        ]
        head = request_head(request.method, link.address.path + request.target, headers)
        whole = len(request.body) <= SMALL_BODY
        try:
            for piece in (head + request.body,) if whole else (head, request.body):
                yield Step("send", (link, piece))
        except ConnectionError:
            # A node that refuses a body (413, 401) answers and closes before all of it is sent.
            link.cut = True

    def _receive(self, link: Link, parser: ResponseParser) -> Steps[None]:
        while not parser.complete:
            parser.feed((yield Step("receive", (link,))))

    def _failed(self, link: Link, parser: ResponseParser, error: Exception) -> Failure:
        wrong = isinstance(error, BadResponse) and not error.truncated
        if wrong or isinstance(error, BadStream):
            raise ProtocolError(
                f"{link.address} does not talk like a NearQL node: {error}. "
                "Check the address, the port (NearQL's is 8470), and http against https."
            ) from error
        silent = isinstance(error, TimeoutError)
        reason = f"no answer for {self.limits.timeout:g} s" if silent else _reason(error)
        failure = Failure(link.address, reason, sent=not link.cut, final=silent)
        failure.stale = link.reused and not parser.started and not silent
        return failure


def _was_refused(answer: Answer) -> bool:
    status, body, _ = answer
    return status in REFUSED and bool(body.get("retryable")) and bool(body.get("definite", True))


def _may_repeat(call: Call, answer: Answer) -> bool:
    """Whether the outcome is unknown, and repeating the call finds it out."""
    return answer[0] == 504 and call.repeatable and answer[1].get("code") == "write_unknown"


def _retry_after(answer: Answer) -> float:
    try:
        return min(float(answer[1].get("retry_after", 0)), RETRY_AFTER_LONGEST)
    except ValueError:  # the header's other form, a date
        return RETRY_AFTER_LONGEST


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no connection in time"
    if isinstance(error, socket.gaierror):
        return f"the host's name is not known ({error.strerror})"
    if hasattr(error, "verify_message"):
        return f"{UNTRUSTED}: {error.verify_message}"
    number = None if type(error).__module__ == "ssl" else getattr(error, "errno", None)
    return os.strerror(number).lower() if number and number > 0 else str(error)


def give_up(call: Call, failures: list[Failure]) -> NoReturn:
    """Raise what describes the failed attempts: which address, what was tried, what to do."""
    last = failures[-1]
    times = "once" if len(failures) == 1 else f"{len(failures)} times"
    if call.writes and any(failure.sent for failure in failures):
        raise OutcomeUnknown(
            f"The connection to {last.address} broke ({last}) and the write may or may not have "
            f"happened (tried {times}). Its request id is {call.request_id}: look for its effect "
            "before doing it again.",
            request_id=call.request_id,
        ) from last
    raise ConnectionFailed(_unreachable(failures, times), request_id=call.request_id) from last


def _unreachable(failures: list[Failure], times: str) -> str:
    by_address = {failure.address: failure for failure in failures}
    if len(by_address) > 1:
        each = "; ".join(f"{address}: {failure}" for address, failure in by_address.items())
        return f"No NearQL node answers (tried {times}). {each}."
    last = failures[-1]
    if last.sent:
        return f"{last.address} took the request and did not answer it: {last} (tried {times})."
    if str(last).startswith(UNTRUSTED):
        return f"{last.address} shows a {last}. Give ca_file=... with the authority that signed it."
    return (
        f"No NearQL node answers at {last.address}: {last} (tried {times}). Start one with "
        f"`nearql serve`, or check the address and the port."
    )


__all__ = ["HttpTransport", "Limits"]
