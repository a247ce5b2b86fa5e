"""WebSockets on which nothing moves, beside the proxy's time-outs, each of which is a second here. RFC 8441."""

import socket
import time

from h2_frames import DATA, WINDOW_UPDATE, u32
from h2_messages import websocket
from h2_wire import INITIAL_WINDOW_SIZE, Wrong, frame

CASES = []
# Longer than any of the time-outs, and the clocks that they are measured with.
QUIET_SECS = 4.0
WINDOW = 65_535
LARGEST_WINDOW = (1 << 31) - 1
# More than all buffers on the way to a client hold.
FLOOD_BYTES = 32 << 20


def case(name):
    def add(function):
        CASES.append((name, function))
        return function

    return add


def opened(link, path="/websocket"):
    stream = websocket(link, path)
    link.until(lambda: link.stream(stream).status == 200, "an answer")
    return stream


def expect_quiet(link, secs=QUIET_SECS):
    """Nothing comes for a while, not even an end."""
    deadline = time.monotonic() + secs
    while (left := deadline - time.monotonic()) > 0:
        try:
            got = link.read(left)
        except TimeoutError:
            return
        raise Wrong(f"{got} where nothing was due")


def expect_echo(link, stream, data=b"are you there"):
    before = len(link.stream(stream).body)
    link.send(frame(DATA, 0, stream, data))
    link.until(lambda: bytes(link.stream(stream).body[before:]) == data, "the echo")


def ask_for_flood(link, stream):
    link.send(frame(DATA, 0, stream, b"flood %d" % FLOOD_BYTES))


@case("8441 a quiet WebSocket stays open")
def _(context):
    with context.connect() as link:
        streams = [opened(link) for _ in range(3)]
        for stream in streams:
            expect_echo(link, stream)
        expect_quiet(link)
        for stream in streams:
            expect_echo(link, stream)


@case("8441 a WebSocket whose window is shut stays open, and so do others beside it")
def _(context):
    with context.connect(window=False, own_settings=[(INITIAL_WINDOW_SIZE, WINDOW)]) as link:
        link.send(frame(WINDOW_UPDATE, 0, 0, u32(LARGEST_WINDOW - WINDOW)))
        shut, other = opened(link), opened(link)
        ask_for_flood(link, shut)
        link.until(lambda: len(link.stream(shut).body) == WINDOW, "what the window takes")
        expect_quiet(link)
        expect_echo(link, other)
        link.send(frame(WINDOW_UPDATE, 0, shut, u32(LARGEST_WINDOW - WINDOW)))
        link.until(lambda: len(link.stream(shut).body) == FLOOD_BYTES, "the rest", timeout=60)
        expect_echo(link, shut)


@case("8441 an answer that is not taken is reset, a WebSocket beside it goes on")
def _(context):
    with context.connect(window=False, own_settings=[(INITIAL_WINDOW_SIZE, WINDOW)]) as link:
        link.send(frame(WINDOW_UPDATE, 0, 0, u32(LARGEST_WINDOW - WINDOW)))
        stream = opened(link)
        answer = link.get(f"/large/{FLOOD_BYTES}")
        link.until(lambda: link.stream(answer).reset is not None, "the reset of an answer that is not taken")
        expect_echo(link, stream)
        expect_quiet(link)
        expect_echo(link, stream)


@case("10.5 answers of which a byte is taken are reset, one that is taken byte by byte and a WebSocket beside them go on")
def _(context):
    with context.connect(window=False, own_settings=[(INITIAL_WINDOW_SIZE, 1)]) as link:
        stream = opened(link)
        answers = [link.get("/large/20000") for _ in range(100)]
        taken = link.get("/large/20000")
        began = time.monotonic()
        while time.monotonic() - began < QUIET_SECS or any(link.stream(answer).reset is None for answer in answers):
            before = len(link.stream(taken).body)
            if before > 2000:
                raise Wrong("answers that are not taken are not reset")
            link.until(lambda: len(link.stream(taken).body) == before + 1, "the next byte")
            link.send(frame(WINDOW_UPDATE, 0, taken, u32(1)))
            time.sleep(0.01)
        if any(len(link.stream(answer).body) != 1 for answer in answers):
            raise Wrong("more or less than the window takes")
        link.send(frame(WINDOW_UPDATE, 0, stream, u32(WINDOW)))
        expect_echo(link, stream)


@case("8441 a WebSocket is quiet after its client took nothing for a moment")
def _(context):
    settings = [(INITIAL_WINDOW_SIZE, LARGEST_WINDOW)]
    with context.connect(window=False, own_settings=settings, small_receive_buffer=True) as link:
        link.send(frame(WINDOW_UPDATE, 0, 0, u32(LARGEST_WINDOW - WINDOW)))
        stream = opened(link)
        for turn in range(1, 4):
            ask_for_flood(link, stream)
            # Shorter than the time-out.
            time.sleep(0.4)
            link.until(lambda: len(link.stream(stream).body) == turn * FLOOD_BYTES, "the rest", timeout=60)
            if turn == 1:
                link.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        expect_quiet(link)
        expect_echo(link, stream)


@case("8441 a client that takes nothing of its connection is cut, and its WebSockets end")
def _(context):
    settings = [(INITIAL_WINDOW_SIZE, LARGEST_WINDOW)]
    before = context.backend.under_way
    with context.connect(window=False, own_settings=settings, small_receive_buffer=True) as link:
        link.send(frame(WINDOW_UPDATE, 0, 0, u32(LARGEST_WINDOW - WINDOW)))
        ask_for_flood(link, opened(link))
        context.until(lambda: context.backend.under_way > before, "the flood")
        context.until(lambda: context.backend.under_way <= before, "the end at the backend")
