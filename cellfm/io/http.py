"""Whether a server can be reached, told within seconds: libraries that download try for half a minute and more."""

import ssl
import urllib.error
import urllib.request

TIMEOUT = 10.0
"""Seconds that a server may take to answer."""


def require_reachable(url: str) -> None:
    """Ask a server for anything.

    Raises
    ------
    OSError
        There is no way to it. Any answer will do, and one whose certificate is not known here too: libraries bring
        certificates of their own.
    """
    try:
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=TIMEOUT).close()  # noqa: S310
    except urllib.error.HTTPError as answer:
        answer.close()
    except urllib.error.URLError as error:
        if not isinstance(error.reason, ssl.SSLError):
            raise
