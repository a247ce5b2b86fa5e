"""Clients that mean harm: what they cost is bounded, and others are served meanwhile. RFC 9113, section 10.5."""

import threading
import time

from h2_frames import CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PING, PRIORITY, RST_STREAM, SETTINGS, WINDOW_UPDATE, u32
from h2_wire import CANCEL, INITIAL_WINDOW_SIZE, PREFACE, Closed, Wrong, frame, settings

CASES = []
# What a server may need more while it is flooded, and how long others may wait.
MORE_MEMORY_BYTES = 96 << 20
OTHERS_WAIT_SECS = 5.0
# Requests that the backend has at one time on account of one client.
REQUESTS_AT_ONCE = 600
FLOOD_SECS = 6.0


def case(name):
    def add(function):
        CASES.append((name, function))
        return function

    return add


class Watch:
    """Other clients meanwhile, and the server's memory."""

    def __init__(self, context):
        self.context, self.before, self.most = context, context.memory(), 0
        self.worst, self.failure, self.stop = 0.0, None, threading.Event()
        context.backend.most_under_way = 0
        self.thread = threading.Thread(target=self.run, daemon=True)

    def run(self):
        while not self.stop.is_set():
            began = time.monotonic()
            try:
                with self.context.connect() as link:
                    link.expect_alive()
            except Exception as error:
                self.failure = f"others are not served: {error!r}"
                return
            self.worst = max(self.worst, time.monotonic() - began)
            self.most = max(self.most, self.context.memory())
            self.stop.wait(0.05)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, kind, *_):
        self.stop.set()
        self.thread.join(20)
        if kind:
            return
        if self.failure:
            raise Wrong(self.failure)
        if self.worst > OTHERS_WAIT_SECS:
            raise Wrong(f"others waited {self.worst:.1f} s")
        if self.most - self.before > MORE_MEMORY_BYTES:
            raise Wrong(f"the server's memory grew from {self.before >> 20} to {self.most >> 20} MiB")
        if self.context.backend.most_under_way > REQUESTS_AT_ONCE:
            raise Wrong(f"the backend had {self.context.backend.most_under_way} requests at one time")


def flood(name, make, unread=False):
    """Sends what `make` gives over and over, for a while or until the connection is closed."""

    def run(context):
        with Watch(context), context.connect(small_receive_buffer=unread) as link:
            link.socket.settimeout(1.0)
            deadline, number, sent = time.monotonic() + FLOOD_SECS, 0, 0
            while time.monotonic() < deadline:
                data = make(link, number)
                number += 1
                try:
                    link.socket.sendall(data)
                    sent += len(data)
                except TimeoutError:
                    # It takes no more while nothing is read: that is a bound too.
                    break
                except OSError:
                    return
                if not unread:
                    try:
                        while link.read(timeout=0.0001):
                            pass
                    except TimeoutError:
                        pass
                    except (Closed, OSError):
                        return
        # The connection's end frees what it held; a new one is served at once.
        with context.connect() as link:
            link.expect_alive()
        context.nothing_left()

    CASES.append((f"10.5 {name}", run))


def rapid_reset(path):
    def make(link, _):
        parts = []
        for _ in range(50):
            stream, link.next_stream = link.next_stream, link.next_stream + 2
            parts.append(frame(HEADERS, END_STREAM | END_HEADERS, stream, link.encoded(link.fields(path=path))))
            parts.append(frame(RST_STREAM, 0, stream, u32(CANCEL)))
        return b"".join(parts)

    return make


def made_to_reset(link, _):
    """Frames that have the server reset the streams itself (CVE-2025-8671)."""
    parts = []
    for _ in range(50):
        stream, link.next_stream = link.next_stream, link.next_stream + 2
        parts.append(frame(HEADERS, END_STREAM | END_HEADERS, stream, link.encoded(link.fields(path="/silent"))))
        parts.append(frame(WINDOW_UPDATE, 0, stream, u32(0)))
    return b"".join(parts)


def malformed_requests(link, _):
    parts = []
    for _ in range(50):
        stream, link.next_stream = link.next_stream, link.next_stream + 2
        parts.append(frame(HEADERS, END_STREAM | END_HEADERS, stream, link.encoded(link.fields(extra=[("connection", "close")]))))
    return b"".join(parts)


def on_one_stream(piece, path="/echo"):
    def make(link, number):
        if number == 0:
            link.flooded = link.headers(link.fields("POST", path), end=False)
        return piece(link.flooded) * 200

    return make


def continuations(piece):
    def make(link, number):
        begin = frame(HEADERS, END_STREAM, 1, link.encoded(link.fields())) if number == 0 else b""
        return begin + piece

    return make


flood("rapid reset", rapid_reset("/"))
flood("rapid reset of requests that are never answered", rapid_reset("/silent"))
flood("rapid reset, nothing read", rapid_reset("/"), unread=True)
flood("resets that the server is made to send", made_to_reset)
flood("requests that are malformed", malformed_requests)
flood("PINGs, nothing read", lambda *_: frame(PING, 0, 0, b"12345678") * 500, unread=True)
flood("PINGs", lambda *_: frame(PING, 0, 0, b"12345678") * 500)
flood("SETTINGS, nothing read", lambda *_: settings((INITIAL_WINDOW_SIZE, 65_535)) * 500, unread=True)
flood("SETTINGS", lambda *_: settings((INITIAL_WINDOW_SIZE, 65_535)) * 500)
flood("empty SETTINGS", lambda *_: settings() * 500)
flood("PRIORITY", lambda link, number: b"".join(frame(PRIORITY, 0, 1 + 2 * ((number * 500 + at) % 100_000), b"\0\0\0\0\x10") for at in range(500)))
flood("WINDOW_UPDATEs of 1", on_one_stream(lambda stream: frame(WINDOW_UPDATE, 0, stream, u32(1)), path="/unread"))
flood("empty DATA", on_one_stream(lambda stream: frame(DATA, 0, stream, b"")))
flood("DATA of one byte", on_one_stream(lambda stream: frame(DATA, 0, stream, b"x"), path="/unread"))
flood("CONTINUATIONs without end", continuations(frame(CONTINUATION, 0, 1, b"\x00\x01x\x7f\xf5\x07" + b"y" * 1134) * 20))
flood("empty CONTINUATIONs without end", continuations(frame(CONTINUATION, 0, 1, b"") * 500))
flood("frames of an unknown type", lambda *_: frame(0x16, 0, 0, b"x" * 10_000) * 20)


@case("10.5 a field in the dynamic table, named thousands of times in one block")
def _(context):
    with Watch(context), context.connect() as link:
        link.encoder = __import__("hpack").Encoder()
        for _ in range(50):
            # The first adds 4,000 bytes to the table; each further one is a byte on the wire.
            entry = b"\x40\x01x\x7f\xa1\x1e" + b"y" * 4000
            block = link.encoded(link.fields()) + entry + b"\xbe" * 12_000
            stream, link.next_stream = link.next_stream, link.next_stream + 2
            link.send(frame(HEADERS, END_STREAM, stream, block[:16_000]), frame(CONTINUATION, END_HEADERS, stream, block[16_000:]))
        link.drain(timeout=2)


@case("10.5 large answers that are not taken")
def _(context):
    with Watch(context):
        links = [context.connect(window=False, own_settings=[(INITIAL_WINDOW_SIZE, 0)]) for _ in range(10)]
        for link in links:
            for _ in range(50):
                link.get("/large/5000000")
        time.sleep(3)
        for link in links:
            link.close()
    context.nothing_left()


@case("10.5 large answers whose bytes are not read")
def _(context):
    with Watch(context):
        links = [context.connect(window=False, own_settings=[(INITIAL_WINDOW_SIZE, 0x7FFF_FFFF)], small_receive_buffer=True) for _ in range(10)]
        for link in links:
            link.send(frame(WINDOW_UPDATE, 0, 0, u32(0x7FFF_0000)))
            for _ in range(50):
                link.get("/large/5000000")
        time.sleep(3)
        for link in links:
            link.close()
    context.nothing_left()


@case("10.5 uploads that the backend does not read")
def _(context):
    with Watch(context):
        links = [context.connect() for _ in range(5)]
        for link in links:
            link.socket.settimeout(0.3)
            for _ in range(20):
                stream = link.headers(link.fields("POST", "/unread"), end=False)
                try:
                    link.socket.sendall(frame(DATA, 0, stream, b"x" * 10_000))
                except OSError:
                    break
        time.sleep(2)
        for link in links:
            link.close()
    context.nothing_left()


@case("10.5 hundreds of connections that say nothing behind the preface")
def _(context):
    with Watch(context):
        links = [context.connect() for _ in range(300)]
        for link in links[::50]:
            link.expect_alive()
        for link in links:
            link.close()


@case("10.5 what was flooded leaves no request behind")
def _(context):
    context.nothing_left()
