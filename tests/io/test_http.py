"""The tests have no network: what tries to leave this machine fails at once, in every way there is."""

import http.server
import os
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request

import pytest

ELSEWHERE = ("192.0.2.1", 443)  # an address for documentation (RFC 5737): nobody has it
NAME = "huggingface.co"


@pytest.mark.parametrize(
    "reach",
    [
        lambda: socket.create_connection(ELSEWHERE, timeout=5),
        lambda: socket.socket().connect(ELSEWHERE),
        lambda: socket.socket().connect_ex(ELSEWHERE),
        lambda: socket.socket(socket.AF_INET6).connect(("2001:db8::1", 443)),
        lambda: socket.socket(type=socket.SOCK_DGRAM).connect(ELSEWHERE),
        lambda: socket.socket(type=socket.SOCK_DGRAM).sendto(b"x", ELSEWHERE),
        lambda: socket.create_connection((NAME, 443), timeout=5),
        lambda: socket.getaddrinfo(NAME, 443),
        lambda: socket.gethostbyname(NAME),
        lambda: urllib.request.build_opener().open(f"https://{NAME}", timeout=5),
    ],
    ids=["create", "connect", "connect_ex", "ipv6", "datagram", "sendto", "by name", "lookup", "old lookup", "urlopen"],
)
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_nothing_outside_is_reached(reach: object, monkeypatch: pytest.MonkeyPatch):
    for name in ("HTTPS_PROXY", "HTTP_PROXY", "https_proxy", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(OSError, match="The tests have no network"):
        reach()


def test_this_machine_is_reached():
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        socket.create_connection(("localhost", server.server_port), timeout=5).close()
        thread.join(10)
    one, other = socket.socketpair()
    one.sendall(b"x")
    assert other.recv(1) == b"x"
    one.close()
    other.close()


def test_processes_of_the_tests_are_sent_to_a_proxy_that_is_not_there():
    code = "import urllib.request as r; r.urlopen('https://huggingface.co', timeout=20)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ))
    assert ran.returncode == 1
    assert "Connection refused" in ran.stderr
