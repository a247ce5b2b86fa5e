"""The backend of the tests: HTTP/1.1, strict, and it remembers what it saw."""

import re
import socket
import threading
import time

TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
LINE = re.compile(rb"(" + TOKEN + rb") ((?:/|\*)[!-~]*) HTTP/1\.1")
FIELD = re.compile(rb"(" + TOKEN + rb"):[ \t]*([\t -~\x80-\xff]*?)[ \t]*")


UNREAD_SECS = 4.0
TCP_CLOSE = 7


class Request:
    def __init__(self, method, target, fields):
        self.method, self.target, self.fields, self.body, self.whole = method, target, fields, b"", False

    def all(self, name):
        return [value for known, value in self.fields if known.lower() == name]


class Backend:
    """Listens on a port of the system's choice."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.address = self.listener.getsockname()
        self.lock = threading.Lock()
        self.requests, self.violations = [], []
        self.open_targets = {}
        self.connections, self.most_connections = 0, 0
        self.under_way, self.most_under_way, self.begun = 0, 0, 0
        threading.Thread(target=self._accept, daemon=True).start()

    def seen(self, target):
        """The whole requests for a target."""
        with self.lock:
            return [request for request in self.requests if request.target == target and request.whole]

    def left(self):
        """The targets of requests that have not come to an end."""
        with self.lock:
            return sorted(self.open_targets.values())

    def _accept(self):
        while True:
            connection, _ = self.listener.accept()
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection):
        with self.lock:
            self.connections += 1
            self.most_connections = max(self.most_connections, self.connections)
        try:
            reader = connection.makefile("rb")
            while self._one(connection, reader):
                pass
        except OSError:
            pass
        finally:
            connection.close()
            with self.lock:
                self.connections -= 1

    def _violation(self, what):
        with self.lock:
            self.violations.append(what)
        return False

    def _one(self, connection, reader):
        line = reader.readline()
        if not line:
            return False
        match = LINE.fullmatch(line[:-2])
        if not line.endswith(b"\r\n") or not match:
            return self._violation(f"the request line {line!r}")
        fields = []
        while (line := reader.readline()) != b"\r\n":
            field = FIELD.fullmatch(line[:-2])
            if not line.endswith(b"\r\n") or not field:
                return line != b"" and self._violation(f"the field line {line!r}")
            fields.append(field.groups())
        request = Request(match[1].decode(), match[2].decode(), fields)
        if len(request.all(b"host")) != 1 or (request.all(b"content-length") and request.all(b"transfer-encoding")):
            return self._violation(f"the head {fields}")
        with self.lock:
            self.requests.append(request)
            self.begun += 1
            self.open_targets[id(request)] = request.target
            self.under_way += 1
            self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            return self._answer(connection, reader, request)
        finally:
            with self.lock:
                self.under_way -= 1
                del self.open_targets[id(request)]

    def _answer(self, connection, reader, request):
        path = request.target.split("?")[0]
        if path == "/unread":
            self._leave_unread(connection)
            return False
        if not self._body(reader, request):
            return False
        if path == "/silent":
            self._wait_for_end(connection)
            return False
        if path.startswith("/websocket"):
            return self._websocket(connection, reader, request)
        body, extra, status = b"hello", b"", b"200 OK"
        if path == "/echo":
            body = request.body
        elif path.startswith("/large/"):
            body = b"x" * int(path.split("/")[2])
        elif path == "/trickle":
            connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            for _ in range(20):
                connection.sendall(b"1\r\nx\r\n")
                time.sleep(0.02)
            connection.sendall(b"0\r\nX-Sum: 20\r\n\r\n")
            return True
        elif path == "/hop":
            extra = b"Connection: X-Own\r\nX-Own: 1\r\nKeep-Alive: timeout=5\r\nX-MiXed: Yes\r\n"
        elif path == "/hints":
            connection.sendall(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\nConnection: X-Own\r\nX-Own: 1\r\nKeep-Alive: 5\r\n\r\n")
            connection.sendall(b"HTTP/1.1 103 Early Hints\r\nLink: </y>\r\n\r\n")
        elif path.startswith("/hints/"):
            connection.sendall(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" * int(path.split("/")[2]))
        elif path == "/cut":
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhello")
            return False
        elif path == "/none":
            connection.sendall(b"HTTP/1.1 204 None\r\n\r\n")
            return True
        head = b"HTTP/1.1 " + status + b"\r\nContent-Length: %d\r\n" % len(body) + extra + b"\r\n"
        connection.sendall(head if request.method == "HEAD" else head + body)
        return True

    def _body(self, reader, request):
        if request.all(b"transfer-encoding"):
            while True:
                line = reader.readline()
                if not line:
                    return False
                if not re.fullmatch(rb"[0-9a-fA-F]+\r\n", line):
                    return self._violation(f"the chunk {line!r}")
                size = int(line, 16)
                if size == 0:
                    break
                data = reader.read(size + 2)
                request.body += data[:-2]
                if len(data) < size + 2:
                    return False
            while (line := reader.readline()) != b"\r\n":
                if not line:
                    return False
                if not FIELD.fullmatch(line[:-2]):
                    return self._violation(f"the trailer {line!r}")
        elif request.all(b"content-length"):
            length = int(request.all(b"content-length")[0])
            request.body = reader.read(length)
            if len(request.body) < length:
                return False
        request.whole = True
        return True

    def _wait_for_end(self, connection):
        connection.settimeout(60)
        while select_readable(connection) and connection.recv(1, socket.MSG_PEEK):
            time.sleep(0.05)
            if self._ended(connection):
                return

    def _wait_for_reset(self, connection):
        """Says nothing, and waits until the connection is gone altogether: a client's end alone leaves it in CLOSE-WAIT."""
        while connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] != TCP_CLOSE:
            time.sleep(0.05)

    def _leave_unread(self, connection):
        """Reads nothing for long enough that all buffers on the way are full, then what it takes to see the end."""
        deadline = time.monotonic() + UNREAD_SECS
        while time.monotonic() < deadline and not self._ended(connection):
            time.sleep(0.05)
        connection.settimeout(60)
        while connection.recv(65_536):
            pass

    def _ended(self, connection):
        # Unread bytes hide the end from a peek, so the kernel is asked for the state.
        return connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] != 1

    def _websocket(self, connection, reader, request):
        if [value.lower() for value in request.all(b"upgrade")] != [b"websocket"]:
            connection.sendall(b"HTTP/1.1 426 Upgrade\r\nContent-Length: 0\r\n\r\n")
            return True
        accept = _accept_key(request.all(b"sec-websocket-key")[0]) if request.all(b"sec-websocket-key") else b""
        connection.sendall(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: " + accept + b"\r\n\r\n"
        )
        while data := reader.read1(65_536):
            if data.startswith(b"flood "):
                data = b"x" * int(data.split()[1])
            connection.sendall(data)
        if request.target == "/websocket/waits":
            self._wait_for_reset(connection)
        # Goes on talking to a client that has said all it has to say.
        while request.target == "/websocket/talks":
            connection.sendall(b".")
            time.sleep(0.05)
        return False


def select_readable(connection):
    import select

    return select.select([connection], [], [], 60)[0]


def _accept_key(key):
    import base64
    import hashlib

    return base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
