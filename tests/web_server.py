"""A web server on this machine that serves files, and misbehaves as it is told to: for tests of downloads."""
from __future__ import annotations

import contextlib
import hashlib
import http.server
import re
import threading
from typing import Dict, List, NamedTuple, Optional


class Fault(NamedTuple):
    """What one answer does wrong, or at least differently."""

    status: int = 0  # with `headers` and no content
    headers: Optional[Dict[str, str]] = None
    cut: Optional[int] = None  # end the connection after so many bytes
    stall: Optional[int] = None  # send nothing more after so many bytes, until the server ends
    flip: bool = False  # change the last byte
    no_ranges: bool = False  # send the whole file
    no_length: bool = False  # end of the connection ends the file


class Server(http.server.ThreadingHTTPServer):
    """`content` is by path, with its slash. `faults` are per path, one for each request, then none."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.content: Dict[str, bytes] = {}
        self.faults: Dict[str, List[Fault]] = {}
        self.always: Dict[str, Fault] = {}
        self.requests: List[tuple] = []  # (path, headers)
        self.no_validators = False
        self.stopping = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def paths(self) -> List[str]:
        return [path for path, _ in self.requests]

    def handle_error(self, request, client_address):
        pass  # clients that left


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        server = self.server
        server.requests.append((self.path, dict(self.headers)))
        queue = server.faults.get(self.path) or [server.always.get(self.path, Fault())]
        fault = queue.pop(0) if self.path in server.faults and server.faults[self.path] else queue[0]
        content = server.content.get(self.path)
        if fault.status or content is None:
            self.send_response(fault.status or 404)
            for name, value in (fault.headers or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        etag = f'"{hashlib.md5(content).hexdigest()}"'
        start = 0
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if asked and not fault.no_ranges and self.headers.get("If-Range", etag) == etag:
            start = int(asked[1])
            if start >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if fault.no_length:
            self.send_header("Connection", "close")
        else:
            self.send_header("Content-Length", str(len(content) - start))
        if not server.no_validators:
            self.send_header("ETag", etag)
        for name, value in (fault.headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        body = content[start:]
        if fault.flip:
            body = body[:-1] + bytes([body[-1] ^ 1])
        limit = min([len(body), *(at for at in (fault.cut, fault.stall) if at is not None)])
        with contextlib.suppress(OSError):
            self.wfile.write(body[:limit])
            self.wfile.flush()
            if fault.stall is not None:
                server.stopping.wait(30)
        if fault.cut is not None or fault.stall is not None or fault.no_length:
            self.close_connection = True

    def log_message(self, *words):
        pass


@contextlib.contextmanager
def serving():
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.stopping.set()
        server.shutdown()
        server.server_close()
        thread.join()
