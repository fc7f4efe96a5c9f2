"""Check within seconds whether a server can be reached; libraries that download try for half a minute or more."""

import ssl
import urllib.error
import urllib.request

TIMEOUT = 10.0
"""Seconds that a server may take to answer."""


def require_reachable(url: str) -> None:
    """Check that a server can be reached.

    Raises
    ------
    OSError
        It cannot be reached. Any answer counts, even one with an unknown certificate, because libraries bring their own
        certificates.
    """
    try:
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=TIMEOUT).close()  # noqa: S310
    except urllib.error.HTTPError as answer:
        answer.close()
    except urllib.error.URLError as error:
        if not isinstance(error.reason, ssl.SSLError):
            raise
