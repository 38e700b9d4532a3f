"""A TCP proxy before the server, which cuts connections in the middle of whatever passes.

It must not change a byte of what it hands on.
"""

import random
import socket
import threading
from contextlib import suppress


class Proxy:
    """Listens on a free port of 127.0.0.1 and hands everything on to another port there."""

    def __init__(self, port: int) -> None:
        self._behind = port
        self._is_closed = False
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Take no more, and cut what there is."""
        self._is_closed = True
        # Closing alone does not wake the thread that waits for connections.
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self.cut(1.0, random.Random())

    def cut(self, share: float, chance: random.Random) -> int:
        """Cut this share of the connections on both sides; return how many."""
        cut = 0
        for pair in list(self._pairs):
            if chance.random() < share:
                cut += 1
                for side in pair:
                    with suppress(OSError):
                        side.shutdown(socket.SHUT_RDWR)
        return cut

    def _accept(self) -> None:
        while not self._is_closed:
            try:
                client, _ = self._listening.accept()
            except OSError:
                # A client that was gone before it was taken is no reason to let the others wait.
                continue
            try:
                server = socket.create_connection(("127.0.0.1", self._behind))
            except OSError:
                # The server takes none now: whoever waits learns it, and others are taken.
                client.close()
                continue
            threading.Thread(target=self._connect, args=(client, server), daemon=True).start()

    def _connect(self, client: socket.socket, server: socket.socket) -> None:
        """Hand on in both directions until both sides are done."""
        pair = client, server
        self._pairs.append(pair)
        if self._is_closed:
            self.cut(1.0, random.Random())
        back = threading.Thread(target=self._hand_on, args=(server, client), daemon=True)
        back.start()
        self._hand_on(client, server)
        back.join()
        self._pairs.remove(pair)
        for side in pair:
            side.close()

    def _hand_on(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            # Short pieces, so that a cut comes within a message.
            while piece := source.recv(512):
                target.sendall(piece)
        with suppress(OSError):
            target.shutdown(socket.SHUT_WR)
