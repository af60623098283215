"""Exit 0 if the node in this container answers /livez: the image's HEALTHCHECK.

Standard library only, so that it costs milliseconds.
"""

import os
import sys
import urllib.error
import urllib.request

port = os.environ.get("NEARQL_HTTP_PORT", "8470")

try:
    urllib.request.urlopen(f"http://127.0.0.1:{port}/livez", timeout=4)
except (urllib.error.URLError, OSError) as error:
    sys.exit(f"not live: {error}")
