"""A web server with files in memory, byte ranges, and faults on demand."""

import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Fault:
    """Answer the next `times` GETs of `path` with `status` (0: drop the connection), or cut their bodies short."""

    path: str
    status: int = 200
    times: int = 1
    cut: int | None = None  # bytes of the body that are sent, of all that are promised
    headers: dict[str, str] = field(default_factory=dict)


class Web:
    """`with Web() as web:` serves `web.files` at `web.url`; `web.log` has the first byte asked for by each GET."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.redirects: dict[str, str] = {}
        self.faults: list[Fault] = []
        self.ranges = True
        self.lengths = True
        self.log: list[tuple[str, int]] = []
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), type("BoundHandler", (_Handler,), {"web": self}))
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}"

    def __enter__(self) -> "Web":
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.http.shutdown()
        self.http.server_close()

    def fault(self, path: str) -> Fault | None:
        for fault in self.faults:
            if fault.times and fault.path == path:
                fault.times -= 1
                return fault
        return None


class _Handler(BaseHTTPRequestHandler):
    wbufsize = -1
    web: Web

    def log_message(self, *_: object) -> None:
        """Stay silent."""

    def do_HEAD(self) -> None:
        self._serve(None)

    def do_GET(self) -> None:
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        self.web.log.append((self.path, int(match[1]) if match else 0))
        self._serve(self.web.fault(self.path))

    def _serve(self, fault: Fault | None) -> None:
        if fault and fault.status == 0:
            self.close_connection = True
            self.connection.close()
        elif fault and fault.status != 200:
            self._send(fault.status, b"injected", fault.headers)
        elif self.path in self.web.redirects:
            self._send(302, b"", {"Location": self.web.redirects[self.path]})
        elif self.path not in self.web.files:
            self._send(404, b"no such file", {})
        else:
            self._send_file(self.web.files[self.path], fault.cut if fault else None)

    def _send_file(self, data: bytes, cut: int | None) -> None:
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")) if self.web.ranges else None
        start = int(match[1]) if match else 0
        headers = {"ETag": f'"{len(data)}"'}
        if match and start >= len(data):
            self._send(416, b"", headers)
        elif match:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            self._send(206, data[start:], headers, cut)
        else:
            self._send(200, data, headers, cut)

    def _send(self, status: int, data: bytes, headers: dict[str, str], cut: int | None = None) -> None:
        self.send_response(status)
        length = {"Content-Length": str(len(data))} if self.web.lengths else {}
        for name, value in {**length, **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data[:cut])
