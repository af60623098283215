"""The HTTP/1.1 codec: any split of the bytes gives the same answer; nothing malformed passes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nearql.client.http1 import HEAD_BYTES, BadResponse, ResponseParser, request_head

PLAIN = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"3\r\nhel\r\n2;ignored=1\r\nlo\r\n0\r\nTrailer: x\r\n\r\n"
)
CONTINUED = b"HTTP/1.1 100 Continue\r\n\r\n" + PLAIN


def parse(*pieces: bytes) -> ResponseParser:
    parser = ResponseParser()
    for piece in pieces:
        parser.feed(piece)
    return parser


@pytest.mark.parametrize("answer", [PLAIN, CHUNKED, CONTINUED])
def test_every_split_in_two_gives_the_same_answer(answer: bytes) -> None:
    for i in range(1, len(answer)):
        parser = parse(answer[:i], answer[i:])
        assert (parser.complete, parser.status, parser.body) == (True, 200, b"hello")
        assert parser.reusable


@pytest.mark.parametrize("answer", [PLAIN, CHUNKED, CONTINUED])
def test_byte_by_byte(answer: bytes) -> None:
    parser = parse(*(answer[i : i + 1] for i in range(len(answer))))
    assert (parser.complete, parser.body) == (True, b"hello")


@pytest.mark.parametrize("answer", [PLAIN, CHUNKED, CONTINUED])
def test_a_close_before_the_end_is_truncation(answer: bytes) -> None:
    for i in range(len(answer)):
        parser = ResponseParser()
        if i:
            parser.feed(answer[:i])
        with pytest.raises(BadResponse) as caught:
            parser.feed(b"")
        assert caught.value.truncated


@given(st.binary(max_size=3000), st.lists(st.integers(1, 700), min_size=1, max_size=30))
def test_bodies_come_back_whole(body: bytes, sizes: list[int]) -> None:
    """Chunks of any sizes, read in pieces of any sizes."""
    pieces, rest = [], body
    for size in sizes:
        if rest:
            pieces.append(rest[:size])
            rest = rest[size:]
    pieces += [rest] if rest else []
    sent = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + b"".join(
        b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces
    )
    sent += b"0\r\n\r\n"
    parser, at = ResponseParser(), 0
    while at < len(sent):
        step = sizes[at % len(sizes)]
        parser.feed(sent[at : at + step])
        at += step
    assert parser.complete
    assert parser.body == body


def test_without_a_length_the_close_ends_the_body() -> None:
    parser = parse(b"HTTP/1.1 200 OK\r\n\r\nhel", b"lo", b"")
    assert (parser.complete, parser.body, parser.reusable) == (True, b"hello", False)


@pytest.mark.parametrize("status", [204, 304])
def test_answers_without_a_body(status: int) -> None:
    parser = parse(b"HTTP/1.1 %d X\r\n\r\n" % status)
    assert (parser.complete, parser.body, parser.reusable) == (True, b"", True)


def test_an_empty_body_is_complete_at_once() -> None:
    assert parse(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").complete


def test_connection_close_is_not_reused() -> None:
    head = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
    assert not parse(head).reusable


def test_bytes_after_the_answer_forbid_reuse() -> None:
    parser = parse(PLAIN + b"HTTP/1.1 200 OK\r\n")
    assert (parser.body, parser.reusable) == (b"hello", False)


def test_repeated_headers_are_joined_and_names_lower_case() -> None:
    parser = parse(b"HTTP/1.1 204 X\r\nVia: a\r\nVIA:  b \r\n\r\n")
    assert parser.headers == {"via": "a, b"}


@pytest.mark.parametrize(
    "bad",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\x15\x03\x01\x00\x02\x02\x16",  # a TLS alert
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n folded: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5, 6\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabc\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + b"y" * HEAD_BYTES,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1" * (HEAD_BYTES + 1),
    ],
)
def test_malformed_answers_are_refused(bad: bytes) -> None:
    with pytest.raises(BadResponse) as caught:
        parse(bad)
    assert not caught.value.truncated


@pytest.mark.parametrize(
    ("target", "value"), [("/x", "a\r\nevil: 1"), ("/x\r\nevil: 1", "a"), ("/x", "a\nb")]
)
def test_line_breaks_cannot_smuggle_headers(target: str, value: str) -> None:
    with pytest.raises(ValueError, match="line break"):
        request_head("GET", target, [("token", value)])


def test_a_request_head() -> None:
    head = request_head("POST", "/v1/sql", [("host", "h:1"), ("content-length", "2")])
    assert head == b"POST /v1/sql HTTP/1.1\r\nhost: h:1\r\ncontent-length: 2\r\n\r\n"
