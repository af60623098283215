"""Talk SQL to the node at 127.0.0.1:8470: run inside a container by docker/test.sh.

`smoke.py first` makes a table and searches it; `smoke.py again` finds the rows of the first run.
"""

import json
import sys
import time
import urllib.error
import urllib.request

URL = "http://127.0.0.1:8470"


def wait_until_ready(seconds: float = 60) -> None:
    """Poll /readyz until it says 200."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            urllib.request.urlopen(f"{URL}/readyz", timeout=2)
            return
        except (urllib.error.URLError, OSError) as error:
            if time.monotonic() > deadline:
                sys.exit(f"not ready after {seconds} s: {error}")
            time.sleep(0.2)


def sql(statement: str, **params: object) -> list[list[object]]:
    """Run a statement; its rows."""
    body = json.dumps({"sql": statement, "params": params}).encode()
    request = urllib.request.Request(
        f"{URL}/v1/sql", data=body, headers={"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as response:
        rows: list[list[object]] = json.load(response)["rows"]
    return rows


def main() -> None:
    """Write on the first run, search on both."""
    wait_until_ready()
    if sys.argv[1:] == ["first"]:
        sql("CREATE TABLE docs (id BIGINT PRIMARY KEY, title TEXT, vec VECTOR(3))")
        sql("INSERT INTO docs VALUES (1, 'near', '[1,0,0]'), (2, 'far', '[0,0,9]')")
    rows = sql("SELECT title FROM docs ORDER BY vec <-> :q LIMIT 1", q=[1, 0, 0.1])
    if rows != [["near"]]:
        sys.exit(f"wrong answer: {rows}")
    print("smoke test passed")


if __name__ == "__main__":
    main()
