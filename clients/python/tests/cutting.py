"""A proxy that cuts connections where a test says."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable

# Of a request's head and what the server has said so far: how many bytes of it go on before the cut; None for no cut.
Cut = Callable[[bytes, bytes], "int | None"]


class Proxy:
    def __init__(self, url: str, cut: Cut) -> None:
        host, port = re.fullmatch(r"http://(.+):(\d+)", url).groups()  # type: ignore[union-attr]
        self.to = (host, int(port))
        self.cut = cut
        self.requests: list[bytes] = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(client,), daemon=True).start()

    def serve(self, client: socket.socket) -> None:
        """One request for each connection: the answer is sent with `connection: close`."""
        with client, socket.create_connection(self.to) as server:
            request = b""
            while b"\r\n\r\n" not in request:
                request += client.recv(65536)
            head, _, body = request.partition(b"\r\n\r\n")
            length = re.search(rb"(?i)content-length: (\d+)", head)
            while length and len(body) < int(length[1]):
                body += client.recv(65536)
            self.requests.append(head)
            head = re.sub(rb"(?i)connection: keep-alive", b"connection: close", head)
            server.sendall(head + b"\r\n\r\n" + body)
            said = b""
            while chunk := server.recv(65536):
                sent, said = len(said), said + chunk
                keep = self.cut(head, said)
                try:
                    if keep is not None:
                        client.sendall(said[sent : max(keep, sent)])
                        return
                    client.sendall(chunk)
                except OSError:
                    return
