"""A local HTTP server that serves one content in the ways that servers, proxies and networks break downloads."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Behaviour:
    """How one path is served.

    Args:
        content: the file.
        etag, last_modified: as headers, where given.
        break_after: for each response in turn, after how many bytes of its body the connection is cut; None: whole.
            The last counts for all further ones.
        reset: cuts it with a reset, not an end, so that bytes under way may be lost.
        claim: a Content-Length to state instead of the true one; -1 for none.
        chunked: sends the body in chunks, without Content-Length.
        ranges: "honour" (If-Range too), "ignore" (always whole), "refuse" (416), "blind" (ignores If-Range),
            "shifted" (answers another range than asked).
        statuses: answers for the first requests, before the file is served; each a number or (number, headers).
        stall: seconds of silence in the middle of the body of the first response.
        then: contents (with their ETag) that replace the file after each request.
        location: redirects there.
    """

    content: bytes = b""
    etag: str | None = None
    last_modified: str | None = None
    break_after: tuple[int | None, ...] = (None,)
    reset: bool = False
    claim: int | None = None
    chunked: bool = False
    ranges: str = "honour"
    statuses: tuple[int | tuple[int, dict[str, str]], ...] = ()
    stall: float = 0.0
    then: tuple[tuple[bytes, str | None], ...] = ()
    location: str | None = None


@dataclass
class BreakingServer:
    """The paths it serves, and the requests it saw."""

    url: str
    paths: dict[str, Behaviour] = field(default_factory=dict)
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)  # ends what stalls

    def ranges(self) -> list[str | None]:
        """The Range header of each request."""
        return [headers.get("range") for _, headers in self.requests]

    def serve(self, path: str, content: bytes, **behaviour: object) -> str:
        """Serve a content there; returns its address."""
        self.paths[path] = Behaviour(content, **behaviour)
        return self.url + path


@contextmanager
def breaking_server() -> Iterator[BreakingServer]:
    """The server, on a free port of 127.0.0.1."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    server.state = state = BreakingServer(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        state.released.set()
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        state = self.server.state
        behaviour = state.paths.get(self.path)
        number = sum(path == self.path for path, _ in state.requests)
        state.requests.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
        self.close_connection = True
        if behaviour is None:
            self._answer(404, {"Content-Length": "0"})
        elif number < len(behaviour.statuses):
            status = behaviour.statuses[number]
            status, headers = status if isinstance(status, tuple) else (status, {})
            self._answer(status, {"Content-Length": "0", **headers})
        elif behaviour.location is not None:
            self._answer(302, {"Location": behaviour.location, "Content-Length": "0"})
        else:
            self._serve(behaviour, number - len(behaviour.statuses))

    def _answer(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Connection", "close")
        self.end_headers()

    def _serve(self, behaviour: Behaviour, number: int) -> None:
        if number and number <= len(behaviour.then):
            behaviour.content, behaviour.etag = behaviour.then[number - 1]
        content, size = behaviour.content, len(behaviour.content)
        start = self._start_of_range(behaviour)
        if start is not None and (behaviour.ranges == "refuse" or start >= size):
            self._answer(416, {"Content-Range": f"bytes */{size}", "Content-Length": "0"})
            return
        body = content[start or 0 :]
        headers = {"Content-Length": str(len(body))}
        if behaviour.claim is not None:
            headers["Content-Length"] = str(behaviour.claim)
        if start is not None:
            stated = start + (7 if behaviour.ranges == "shifted" else 0)
            headers["Content-Range"] = f"bytes {stated}-{size - 1}/{size}"
        if behaviour.chunked:
            headers["Transfer-Encoding"] = "chunked"
        if behaviour.chunked or behaviour.claim == -1:
            del headers["Content-Length"]
        if behaviour.etag:
            headers["ETag"] = behaviour.etag
        if behaviour.last_modified:
            headers["Last-Modified"] = behaviour.last_modified
        self._answer(200 if start is None else 206, headers)
        self._send_body(body, behaviour, number)

    def _start_of_range(self, behaviour: Behaviour) -> int | None:
        asked, condition = self.headers.get("Range"), self.headers.get("If-Range")
        if asked is None or behaviour.ranges == "ignore":
            return None
        honours = behaviour.ranges == "honour"
        if honours and condition is not None and condition not in (behaviour.etag, behaviour.last_modified):
            return None
        return int(asked.removeprefix("bytes=").removesuffix("-"))

    def _send_body(self, body: bytes, behaviour: Behaviour, number: int) -> None:
        end = behaviour.break_after[min(number, len(behaviour.break_after) - 1)]
        whole, body = end is None, body[:end]
        middle = len(body) // 2
        try:
            self._send(body[:middle], behaviour.chunked)
            if behaviour.stall and number == 0:
                self.server.state.released.wait(behaviour.stall)
            self._send(body[middle:], behaviour.chunked)
            if behaviour.chunked and whole:
                self.wfile.write(b"0\r\n\r\n")
            if behaviour.reset and not whole:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()
        except OSError:
            pass  # the client has gone

    def _send(self, data: bytes, chunked: bool) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data) if chunked and data else data)
        self.wfile.flush()
