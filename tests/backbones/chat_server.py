"""A chat server of the tests: OpenAI's protocol, answers by a function, and a record of what it was sent."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Callable
from typing import Any

Reply = tuple[int, dict[str, Any] | str, dict[str, str]]


class Server(http.server.ThreadingHTTPServer):
    """A chat server that answers by `answer`, and records what it was sent."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.models: list[dict[str, str]] = [{"id": "m", "owned_by": "someone"}]
        self.answer: Callable[[dict[str, Any]], Reply] = lambda body: said("x")
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.running = self.most_running = 0
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self._send((200, {"data": self.server.models}, {}) if self.server.models else (404, "no such page", {}))

    def do_POST(self) -> None:
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            server.bodies.append(body)
            server.headers.append(dict(self.headers))
            server.running += 1
            server.most_running = max(server.most_running, server.running)
        try:
            reply = server.answer(body)
        finally:
            with server.lock:
                server.running -= 1
        self._send(reply)

    def _send(self, reply: Reply) -> None:
        status, content, headers = reply
        data = (content if isinstance(content, str) else json.dumps(content)).encode()
        self.send_response(status)
        for key, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        pass


def said(text: str | None, reason: str = "stop", usage: dict[str, int] | None = None) -> Reply:
    message = {"choices": [{"message": {"content": text}, "finish_reason": reason}], "usage": usage}
    return 200, message, {}
