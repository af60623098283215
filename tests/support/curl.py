"""The part of curl that the documentation uses, for machines without: `python -m support.curl`."""

from __future__ import annotations

import sys

import httpx


def main(words: list[str]) -> int:
    """Do one request and print its body; 22 for a status of 400 and more with -f, as curl."""
    headers: dict[str, str] = {}
    body, method, target, fail = None, None, "", False
    rest = iter(words)
    for word in rest:
        if word == "-H":
            name, _, value = next(rest).partition(":")
            headers[name] = value.strip()
        elif word in ("-d", "--data-binary"):
            body = next(rest)
        elif word == "-X":
            method = next(rest)
        elif word.startswith("-"):
            assert not word.strip("-sSf"), f"support.curl doesn't know {word}"
            fail = "f" in word
        else:
            target = word if "://" in word else f"http://{word}"
    method = method or ("GET" if body is None else "POST")
    response = httpx.request(method, target, headers=headers, content=body, timeout=60)
    sys.stdout.write(response.text)
    return 22 if fail and response.status_code >= 400 else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
