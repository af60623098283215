"""How soon the dashboard is there, and how soon it shows that a node is gone; in real Chromium.

    python3 dev.py bench dashboard [--loads 15] [--kills 3] [--out FILE]

A node with a table of its own process, and a profile of the browser that has seen nothing, for
each load: until the browser's `load` event, until the first figures are drawn, and the bytes that
came before the editor. Then a cluster of three processes as `nearql cluster init` makes it: the
Cluster page of one, and how long after the SIGKILL of another its card says so.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, sync_playwright

LOAD_MS, FIRST_BYTES, SHOWN_S = 200, 150_000, 10.0
SEEN = """
new MutationObserver((changes, watch) => {
    if (document.querySelector("#main .panel table")) {
        window.drawnAt = performance.now();
        watch.disconnect();
    }
}).observe(document, {childList: true, subtree: true});
"""


@contextmanager
def serving(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A node's process, ended at the end."""
    command = [sys.executable, "-m", "nearql", "serve", *arguments]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(60)


def ask(url: str, body: Any = None) -> tuple[int, Any]:
    """(status, JSON); 0 where nothing answers."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, json.loads(answer.read())
    except OSError as error:
        return getattr(error, "code", 0), None


def wait(url: str, body: Any = None, seconds: float = 120) -> None:
    """Until a request is answered with 200."""
    end = time.monotonic() + seconds
    while ask(url, body)[0] != 200:
        if time.monotonic() > end:
            raise SystemExit(f"no 200 of {url} within {seconds} s")
        time.sleep(0.1)


def one_load(browser: Browser, url: str) -> dict[str, float]:
    """Times in ms and bytes of a first visit."""
    profile = browser.new_context()
    page, sizes = profile.new_page(), list[int]()
    page.on("response", lambda r: sizes.append(0 if "/v1/" in r.url else len(r.body())))
    page.add_init_script(SEEN)
    page.goto(f"{url}/", wait_until="load")
    page.locator("#main .panel table").first.wait_for()
    found = {
        "load_ms": page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd"),
        "drawn_ms": page.evaluate("window.drawnAt"),
        "bytes": float(sum(sizes)),
    }
    profile.close()
    return found


def loads(browser: Browser, folder: str, options: argparse.Namespace) -> dict[str, Any]:
    """Medians and worsts of first visits to one node."""
    url = f"http://127.0.0.1:{options.port}"
    with serving("--port", str(options.port), "--data-dir", f"{folder}/data"):
        wait(f"{url}/readyz")
        for text in (
            "CREATE TABLE docs (id BIGINT PRIMARY KEY, lang TEXT, vec VECTOR(8))",
            "INSERT INTO docs SELECT i, 'en', [i,1,2,3,4,5,6,7] FROM range(1000) AS t(i)",
        ):
            assert ask(f"{url}/v1/sql", {"sql": text})[0] == 200, text
        one_load(browser, url)  # the browser's own start
        found = [one_load(browser, url) for _ in range(options.loads)]
    return {
        name: {
            "median": round(statistics.median(one[name] for one in found), 1),
            "worst": round(max(one[name] for one in found), 1),
        }
        for name in found[0]
    }


def kills(browser: Browser, folder: str, options: argparse.Namespace) -> list[float]:
    """Seconds from a node's SIGKILL until another node's Cluster page says so, for each kill."""
    init = ["cluster", "init", "--nodes", "3", "--out", f"{folder}/try"]
    subprocess.run([sys.executable, "-m", "nearql", *init], check=True, stdout=subprocess.DEVNULL)
    urls = [f"http://127.0.0.1:{port}" for port in (8470, 8480, 8490)]
    configs = [("--config", f"{folder}/try/n{number}.yaml") for number in (1, 2, 3)]
    found = []
    with serving(*configs[0]), serving(*configs[1]):
        for _ in range(options.kills):
            with serving(*configs[2]) as third:
                for url in urls:
                    wait(f"{url}/readyz")
                found.append(shown_after(browser, urls[0], third))
    return found


def shown_after(browser: Browser, url: str, third: subprocess.Popen[bytes]) -> float:
    """Seconds until n3's card says that it is not reachable."""
    page = browser.new_page()
    page.goto(f"{url}/#/cluster")
    card = page.locator(".node-card", has=page.get_by_text("n3", exact=True))
    card.get_by_text("not reachable").wait_for(state="detached", timeout=60_000)
    with suppress(ProcessLookupError):
        third.send_signal(signal.SIGKILL)
    killed = time.monotonic()
    card.get_by_text("not reachable").wait_for(timeout=60_000)
    took = time.monotonic() - killed
    page.close()
    return round(took, 2)


def main() -> int:
    """Run, print, and say by the exit code whether the goals are met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--loads", type=int, default=15)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--port", type=int, default=18_670)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    chromium = shutil.which("chromium")
    if chromium is None:
        raise SystemExit("it takes Debian's package chromium")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        first = loads(browser, folder, options)
        gone = kills(browser, folder, options) if options.kills else []
        browser.close()
    checks = {
        f"drawn in less than {LOAD_MS} ms": first["drawn_ms"]["median"] < LOAD_MS,
        f"less than {FIRST_BYTES} bytes": first["bytes"]["worst"] < FIRST_BYTES,
        f"a killed node is shown within {SHOWN_S:.0f} s": all(s <= SHOWN_S for s in gone),
    }
    told = {"first_visit": first, "killed_node_shown_after_s": gone, "checks": checks}
    print(json.dumps(told, indent=2))
    if options.out is not None:
        options.out.write_text(json.dumps(told, indent=2) + "\n")
    return 0 if all(checks.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
