"""Exit 0 if the node in this container answers /livez: the image's HEALTHCHECK.

Standard library only, so that it costs milliseconds, and loopback only, so that the certificate's
name does not matter.
"""

import os
import ssl
import sys
import urllib.error
import urllib.request

port = os.environ.get("NEARQL_HTTP_PORT", "8470")
scheme = "https" if os.environ.get("NEARQL_HTTP_TLS_CERT_FILE") else "http"
unverified = ssl.create_default_context()
unverified.check_hostname = False
unverified.verify_mode = ssl.CERT_NONE

try:
    urllib.request.urlopen(f"{scheme}://127.0.0.1:{port}/livez", timeout=4, context=unverified)
except (urllib.error.URLError, OSError) as error:
    sys.exit(f"not live: {error}")
