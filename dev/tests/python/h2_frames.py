"""Frames, streams and settings: RFC 9113, sections 3 to 7, and RFC 7541."""

from h2_wire import (
    CANCEL,
    COMPRESSION_ERROR,
    ENABLE_PUSH,
    FLOW_CONTROL_ERROR,
    FRAME_SIZE_ERROR,
    HEADER_TABLE_SIZE,
    INITIAL_WINDOW_SIZE,
    MAX_CONCURRENT_STREAMS,
    MAX_FRAME,
    MAX_FRAME_SIZE,
    PREFACE,
    PROTOCOL_ERROR,
    REFUSED_STREAM,
    STREAM_CLOSED,
    Wrong,
    frame,
    settings,
)

CASES = []
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, END_HEADERS, PADDED, PRIORITIZED = 1, 4, 8, 32


def case(name):
    def add(function):
        CASES.append((name, function))
        return function

    return add


def refused(name, codes, *parts, **connection):
    """Sends frames on a new connection; the whole connection has to end with such an error."""

    def run(context):
        with context.connect(**connection) as link:
            link.send(*parts)
            link.expect_connection_error(*codes)

    CASES.append((name, run))


def ignored(name, *parts, **connection):
    """Sends frames on a new connection, which goes on."""

    def run(context):
        with context.connect(**connection) as link:
            link.send(*parts)
            link.expect_pong()
            link.expect_alive()

    CASES.append((name, run))


def u32(value):
    return value.to_bytes(4, "big")


# 3.4 The preface -----------------------------------------------------------------------------------------------------


@case("3.4 the server begins with SETTINGS and acknowledges ours")
def _(context):
    with context.connect(preface=False) as link:
        link.send(PREFACE + settings())
        first = link.read()
        if type(first).__name__ != "SettingsFrame" or "ACK" in first.flags:
            raise Wrong(f"{first} comes first")
        link.until(lambda: link.acked_settings == 1, "an ACK")
        link.expect_alive()


@case("3.4 a preface byte by byte")
def _(context):
    with context.connect(preface=False) as link:
        for byte in PREFACE + settings():
            link.send(bytes([byte]))
        link.until(lambda: link.settings is not None and link.acked_settings == 1, "SETTINGS")
        link.expect_alive()


@case("3.4 a request right behind the preface")
def _(context):
    with context.connect(preface=False) as link:
        block = link.encoded(link.fields())
        link.send(PREFACE + settings() + frame(HEADERS, END_STREAM | END_HEADERS, 1, block))
        link.expect_status(1, 200)


def wrong_preface(name, data):
    def run(context):
        with context.connect(preface=False) as link:
            link.send(data)
            link.expect_connection_error(PROTOCOL_ERROR)

    CASES.append((f"3.4 {name}", run))


wrong_preface("a wrong preface", b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n" + settings())
wrong_preface("a preface that is another version's", b"PRI * HTTP/1.1\r\n\r\nSM\r\n\r\n" + settings())
wrong_preface("frames without preface", settings() + frame(PING, 0, 0, b"12345678") * 4)
wrong_preface("garbage in the place of a preface", bytes(range(256)))
wrong_preface("PING in the place of SETTINGS", PREFACE + frame(PING, 0, 0, b"12345678"))
wrong_preface("HEADERS in the place of SETTINGS", PREFACE + frame(HEADERS, END_STREAM | END_HEADERS, 1, b"\x82\x87\x84"))

# 4.1, 4.2 Frames -----------------------------------------------------------------------------------------------------

ignored("4.1 a frame of an unknown type", frame(0x16, 0, 0, b"x" * 8))
ignored("4.1 a frame of an unknown type on an unused stream", frame(0xEE, 0xFF, 77, b"x" * 100))
ignored("4.1 undefined flags", frame(PING, 0x16, 0, b"12345678"))
ignored("4.1 a reserved bit", frame(PING, 0, 0x8000_0000, b"12345678"))


@case("4.2 DATA of the greatest size")
def _(context):
    with context.connect() as link:
        stream = link.headers(link.fields("POST", "/echo"), end=False)
        link.send(frame(DATA, END_STREAM, stream, b"x" * MAX_FRAME))
        if len(link.expect_status(stream, 200).body) != MAX_FRAME:
            raise Wrong("another body")


def beyond(link):
    """The size of the smallest frame that the server does not allow."""
    size = link.settings.get(MAX_FRAME_SIZE, MAX_FRAME) + 1
    if size > 1 << 20:
        raise Wrong(f"frames of {size - 1} bytes are allowed")
    return size


@case("4.2 DATA that is too large")
def _(context):
    with context.connect() as link:
        stream = link.headers(link.fields("POST", "/echo"), end=False)
        link.send(frame(DATA, END_STREAM, stream, b"x" * beyond(link)))
        link.expect_stream_error(stream, FRAME_SIZE_ERROR)


@case("4.2 HEADERS that are too large")
def _(context):
    with context.connect() as link:
        size = beyond(link)
        link.send(frame(HEADERS, END_STREAM | END_HEADERS, 1, link.encoded(link.fields()).ljust(size, b"\0")))
        link.expect_connection_error(FRAME_SIZE_ERROR)


refused("4.2 a frame that announces 16 MiB", [FRAME_SIZE_ERROR], frame(DATA, 0, 1, b"x", length=0xFF_FFFF))

# 4.3 and RFC 7541 Header blocks ----------------------------------------------------------------------------------------

for name, block in {
    "an index of 0": b"\x80",
    "an index beyond the tables": b"\xff\x80\x10",
    "a literal whose name has an index beyond the tables": b"\x7f\xff\x10\x01x",
    "a block that breaks off within a string": b"\x82\x87\x84\x00\x05ab",
    "a block that breaks off within an integer": b"\x82\x87\x84\xff",
    "an integer without end": b"\x82\x87\x84\xff" + b"\xff" * 20 + b"\x00",
    "a string of Huffman's code with wrong padding": b"\x82\x87\x84\x00\x81\x00\x01x",
    "a string of Huffman's code with its end symbol": b"\x82\x87\x84\x00\x84\xff\xff\xff\xff\x01x",
    "a size of the table above what is allowed": b"\x3f\xe1\xff\xff\x7f\x82\x87\x84",
    "a size of the table behind a field": b"\x82\x20\x87\x84",
    "a string longer than the block": b"\x82\x87\x84\x00\x7f\xff\xff\xff\x07abc",
}.items():
    refused(f"4.3 {name}", [COMPRESSION_ERROR], frame(HEADERS, END_STREAM | END_HEADERS, 1, block))


@case("4.3 a size of the table of 0")
def _(context):
    with context.connect() as link:
        link.encoder.header_table_size = 0
        link.expect_status(link.get(), 200)
        link.expect_alive()


@case("4.3 fields from the dynamic table on the next stream")
def _(context):
    with context.connect() as link:
        for number in range(5):
            link.expect_status(link.get(extra=[("x-repeated", "y" * 50)]), 200)


@case("4.3 a header block of many CONTINUATIONs")
def _(context):
    with context.connect() as link:
        block = link.encoded(link.fields(extra=[("x-long", "y" * 200)]))
        link.send(frame(HEADERS, END_STREAM, 1, block[:1]))
        for at in range(1, len(block), 10):
            link.send(frame(CONTINUATION, END_HEADERS if at + 10 >= len(block) else 0, 1, block[at : at + 10]))
        link.expect_status(1, 200)


for name, between in {
    "PING": frame(PING, 0, 0, b"12345678"),
    "DATA": frame(DATA, 0, 1, b"x"),
    "HEADERS of another stream": frame(HEADERS, END_STREAM | END_HEADERS, 3, b"\x82\x87\x84"),
    "PRIORITY": frame(PRIORITY, 0, 1, b"\0\0\0\0\0"),
    "SETTINGS": settings(),
    "WINDOW_UPDATE": frame(WINDOW_UPDATE, 0, 0, u32(1)),
    "RST_STREAM": frame(RST_STREAM, 0, 1, u32(CANCEL)),
    "a frame of an unknown type": frame(0x16, 0, 0, b"x"),
    "CONTINUATION of another stream": frame(CONTINUATION, END_HEADERS, 3, b"\x84"),
}.items():
    refused(f"4.3 {name} within a header block", [PROTOCOL_ERROR], frame(HEADERS, END_STREAM, 1, b"\x82\x87"), between)

# 5.1 Streams ---------------------------------------------------------------------------------------------------------

for name, sent in {
    "DATA": frame(DATA, END_STREAM, 1, b"x"),
    "RST_STREAM": frame(RST_STREAM, 0, 1, u32(CANCEL)),
    "WINDOW_UPDATE": frame(WINDOW_UPDATE, 0, 1, u32(100)),
    "CONTINUATION": frame(CONTINUATION, END_HEADERS, 1, b"\x82\x87\x84"),
}.items():
    refused(f"5.1 {name} on an idle stream", [PROTOCOL_ERROR], sent)


def on_stream(name, codes, state, sent):
    """Sends a frame on a stream in some state."""

    def run(context):
        with context.connect() as link:
            if state == "half-closed":
                stream = link.get("/silent")
            elif state == "reset":
                stream = link.headers(link.fields("POST", "/silent"), end=False)
                link.send(frame(RST_STREAM, 0, stream, u32(CANCEL)))
            else:
                stream = link.get("/")
                link.expect_status(stream, 200)
            link.send(sent(link, stream))
            response = link.stream(stream)
            before = (response.reset, len(context.backend.seen("/again")))
            try:
                link.until(lambda: link.goaway or link.stream(stream).reset != before[0], "an error", timeout=1)
            except Wrong:
                # A frame on a stream that is over may be passed over; one on a stream that waits may not.
                if not link.closed and state == "half-closed":
                    raise
            if context.backend.seen("/again"):
                raise Wrong("a second request on one stream")
            reset = link.stream(stream).reset
            if reset not in (None, *codes) or link.goaway and link.goaway.error_code not in codes:
                raise Wrong(f"RST_STREAM {reset}, GOAWAY {link.goaway}")
            if not link.goaway and not link.closed:
                link.expect_alive()

    CASES.append((f"5.1 {name} on a stream that is {state}", run))


for state in ("half-closed", "reset", "closed"):
    on_stream("DATA", [STREAM_CLOSED, PROTOCOL_ERROR], state, lambda link, stream: frame(DATA, END_STREAM, stream, b"x"))
    on_stream(
        "HEADERS",
        [STREAM_CLOSED, PROTOCOL_ERROR],
        state,
        lambda link, stream: frame(HEADERS, END_STREAM | END_HEADERS, stream, link.encoded(link.fields(path="/again"))),
    )


@case("5.1 CONTINUATION on a stream that is half-closed")
def _(context):
    with context.connect() as link:
        stream = link.get("/silent")
        link.send(frame(CONTINUATION, END_HEADERS, stream, b"\x82\x87\x84"))
        link.expect_connection_error(PROTOCOL_ERROR, STREAM_CLOSED)


@case("5.1 WINDOW_UPDATE, RST_STREAM and PRIORITY on a stream that is closed")
def _(context):
    with context.connect() as link:
        stream = link.get("/")
        link.expect_status(stream, 200)
        link.send(frame(WINDOW_UPDATE, 0, stream, u32(100)), frame(PRIORITY, 0, stream, b"\0\0\0\0\x10"))
        link.send(frame(RST_STREAM, 0, stream, u32(CANCEL)))
        link.expect_alive()


@case("5.1.1 a stream of an even number")
def _(context):
    with context.connect() as link:
        link.headers(link.fields(), stream=2)
        link.expect_connection_error(PROTOCOL_ERROR)


@case("5.1.1 a stream of a lower number than the last")
def _(context):
    with context.connect() as link:
        link.expect_status(link.headers(link.fields(), stream=5), 200)
        link.headers(link.fields(path="/lower"), stream=3)
        link.expect_connection_error(PROTOCOL_ERROR, STREAM_CLOSED)
        if context.backend.seen("/lower"):
            raise Wrong("it was passed on")


@case("5.1.1 streams with gaps between their numbers")
def _(context):
    with context.connect() as link:
        for stream in (1, 9, 101, 0x7FFF_FFFD, 0x7FFF_FFFF):
            link.expect_status(link.headers(link.fields(), stream=stream), 200)


@case("5.1.2 more streams than may be at one time")
def _(context):
    with context.connect() as link:
        limit = link.settings.get(MAX_CONCURRENT_STREAMS)
        if limit is None or not 100 <= limit <= 256:
            raise Wrong(f"MAX_CONCURRENT_STREAMS is {limit}; it is to be between 100 (RFC 9113, 6.5.2) and 256")
        waiting = [link.get("/silent") for _ in range(limit)]
        beyond = link.get("/")
        link.until(lambda: link.stream(beyond).reset is not None or link.goaway, "a refusal")
        if link.goaway and link.goaway.error_code in (PROTOCOL_ERROR, REFUSED_STREAM):
            return
        if link.stream(beyond).reset not in (REFUSED_STREAM, PROTOCOL_ERROR):
            raise Wrong(f"RST_STREAM {link.stream(beyond).reset}")
        link.send(*[frame(RST_STREAM, 0, stream, u32(CANCEL)) for stream in waiting])
        link.expect_alive()


# 5.3 Priorities, 5.5 extensions ----------------------------------------------------------------------------------------

ignored("5.3 PRIORITY on an idle stream", frame(PRIORITY, 0, 41, b"\0\0\0\0\x10"))
ignored("5.3 an exclusive PRIORITY", frame(PRIORITY, 0, 3, u32(0x8000_0001) + b"\x10"))


@case("5.3 HEADERS with priority")
def _(context):
    with context.connect() as link:
        link.send(frame(HEADERS, END_STREAM | END_HEADERS | PRIORITIZED, 1, b"\0\0\0\0\x10" + link.encoded(link.fields())))
        link.expect_status(1, 200)


ignored("5.5 an unknown setting", settings((0x77, 1), (0xFFFF, 0xFFFF_FFFF)))

# 6.1 DATA, 6.2 HEADERS -----------------------------------------------------------------------------------------------

refused("6.1 DATA on stream 0", [PROTOCOL_ERROR], frame(DATA, 0, 0, b"x"))
refused("6.2 HEADERS on stream 0", [PROTOCOL_ERROR], frame(HEADERS, END_STREAM | END_HEADERS, 0, b"\x82\x87\x84"))
refused("6.2 HEADERS with more padding than payload", [PROTOCOL_ERROR], frame(HEADERS, END_STREAM | END_HEADERS | PADDED, 1, b"\xff\x82\x87\x84"))
refused(
    "6.2 HEADERS with padding and priority and no room for these",
    [PROTOCOL_ERROR, FRAME_SIZE_ERROR],
    frame(HEADERS, END_STREAM | END_HEADERS | PADDED | PRIORITIZED, 1, b"\0\0"),
)


@case("6.1 DATA with more padding than payload")
def _(context):
    with context.connect() as link:
        stream = link.headers(link.fields("POST", "/echo"), end=False)
        link.send(frame(DATA, END_STREAM | PADDED, stream, b"\x06hello"))
        link.expect_connection_error(PROTOCOL_ERROR)


@case("6.1 DATA with the padded flag and no byte")
def _(context):
    with context.connect() as link:
        stream = link.headers(link.fields("POST", "/echo"), end=False)
        link.send(frame(DATA, END_STREAM | PADDED, stream, b""))
        link.expect_connection_error(PROTOCOL_ERROR, FRAME_SIZE_ERROR)


@case("6.1 padded DATA, and DATA that is padding alone")
def _(context):
    with context.connect() as link:
        stream = link.headers(link.fields("POST", "/echo"), end=False)
        link.send(frame(DATA, PADDED, stream, b"\x05hello" + b"\0" * 5), frame(DATA, PADDED, stream, b"\x03" + b"\0" * 3))
        link.send(frame(DATA, 0, stream, b""), frame(DATA, END_STREAM, stream, b"!"))
        if link.expect_status(stream, 200).body != b"hello!":
            raise Wrong("another body")


@case("6.2 padded HEADERS")
def _(context):
    with context.connect() as link:
        link.send(frame(HEADERS, END_STREAM | END_HEADERS | PADDED, 1, b"\x08" + link.encoded(link.fields()) + b"\0" * 8))
        link.expect_status(1, 200)


# 6.3 PRIORITY, 6.4 RST_STREAM ----------------------------------------------------------------------------------------

refused("6.3 PRIORITY on stream 0", [PROTOCOL_ERROR], frame(PRIORITY, 0, 0, b"\0\0\0\0\x10"))
refused("6.4 RST_STREAM on stream 0", [PROTOCOL_ERROR], frame(RST_STREAM, 0, 0, u32(CANCEL)))


@case("6.3 PRIORITY of a wrong length")
def _(context):
    with context.connect() as link:
        stream = link.get("/silent")
        link.send(frame(PRIORITY, 0, stream, b"\0\0\0\0"))
        link.expect_stream_error(stream, FRAME_SIZE_ERROR)


@case("6.4 RST_STREAM of a wrong length")
def _(context):
    with context.connect() as link:
        stream = link.get("/silent")
        link.send(frame(RST_STREAM, 0, stream, b"\0\0\0"))
        link.expect_connection_error(FRAME_SIZE_ERROR)


@case("6.4 a stream that is reset is over for the backend")
def _(context):
    with context.connect() as link:
        before = context.backend.under_way
        stream = link.get("/silent")
        context.until(lambda: context.backend.under_way > before, "the request")
        link.send(frame(RST_STREAM, 0, stream, u32(CANCEL)))
        context.until(lambda: context.backend.under_way <= before, "its end")
        link.expect_alive()


# 6.5 SETTINGS --------------------------------------------------------------------------------------------------------

refused("6.5 an ACK with payload", [FRAME_SIZE_ERROR], frame(SETTINGS, 1, 0, b"\0\0\0\0\0\0"))
refused("6.5 SETTINGS on a stream", [PROTOCOL_ERROR], settings(stream=1))
refused("6.5 SETTINGS of a wrong length", [FRAME_SIZE_ERROR], frame(SETTINGS, 0, 0, b"\0\3\0\0\0"))
refused("6.5.2 ENABLE_PUSH of 2", [PROTOCOL_ERROR], settings((ENABLE_PUSH, 2)))
refused("6.5.2 INITIAL_WINDOW_SIZE of 2^31", [FLOW_CONTROL_ERROR], settings((INITIAL_WINDOW_SIZE, 1 << 31)))
refused("6.5.2 MAX_FRAME_SIZE below 2^14", [PROTOCOL_ERROR], settings((MAX_FRAME_SIZE, (1 << 14) - 1)))
refused("6.5.2 MAX_FRAME_SIZE of 2^24", [PROTOCOL_ERROR], settings((MAX_FRAME_SIZE, 1 << 24)))
refused("6.5.2 MAX_FRAME_SIZE of 0", [PROTOCOL_ERROR], settings((MAX_FRAME_SIZE, 0)))
ignored("6.5.2 the bounds of what may be set", settings((MAX_FRAME_SIZE, (1 << 24) - 1), (INITIAL_WINDOW_SIZE, (1 << 31) - 1), (ENABLE_PUSH, 0)))
ignored("6.5.2 HEADER_TABLE_SIZE of 0", settings((HEADER_TABLE_SIZE, 0)))
ignored("6.5.2 HEADER_TABLE_SIZE of 2^32 - 1", settings((HEADER_TABLE_SIZE, 0xFFFF_FFFF)))
ignored("6.5.2 MAX_CONCURRENT_STREAMS of 0, which is for pushes", settings((MAX_CONCURRENT_STREAMS, 0)))
ignored("6.5.3 an ACK that nobody waits for", settings(flags=1))


@case("6.5.3 each SETTINGS is acknowledged")
def _(context):
    with context.connect() as link:
        link.send(settings((INITIAL_WINDOW_SIZE, 1)), settings((INITIAL_WINDOW_SIZE, 2)), settings())
        link.until(lambda: link.acked_settings == 4, "four ACKs")


@case("6.5.3 of one setting twice in a frame the last counts")
def _(context):
    with context.connect(window=False) as link:
        link.send(settings((INITIAL_WINDOW_SIZE, 100), (INITIAL_WINDOW_SIZE, 1)))
        link.until(lambda: link.acked_settings == 2, "an ACK")
        stream = link.get("/")
        link.until(lambda: len(link.stream(stream).body) == 1, "one byte")
        link.expect_pong()
        if len(link.stream(stream).body) != 1:
            raise Wrong("more than the window")


# 6.6 PUSH_PROMISE, 6.7 PING, 6.8 GOAWAY ------------------------------------------------------------------------------

refused("6.6 PUSH_PROMISE of a client", [PROTOCOL_ERROR], frame(PUSH_PROMISE, END_HEADERS, 1, u32(2) + b"\x82\x87\x84"))
refused("6.7 PING on a stream", [PROTOCOL_ERROR], frame(PING, 0, 1, b"12345678"))
refused("6.7 PING of a wrong length", [FRAME_SIZE_ERROR], frame(PING, 0, 0, b"1234567"))
ignored("6.7 an ACK that nobody waits for", frame(PING, 1, 0, b"12345678"))
refused("6.8 GOAWAY on a stream", [PROTOCOL_ERROR], frame(GOAWAY, 0, 1, u32(0) * 2))


@case("6.7 PINGs are answered in their order")
def _(context):
    with context.connect() as link:
        sent = [f"ping {number:03}".encode() for number in range(20)]
        link.send(*[frame(PING, 0, 0, data) for data in sent])
        link.until(lambda: len(link.pongs) == 20, "twenty ACKs")
        if link.pongs != sent:
            raise Wrong("another order")


@case("6.8 what is under way at a client's GOAWAY is answered")
def _(context):
    with context.connect() as link:
        stream = link.get("/trickle")
        link.send(frame(GOAWAY, 0, 0, u32(0) * 2))
        if len(link.expect_status(stream, 200).body) != 20:
            raise Wrong("another body")


# 6.9 WINDOW_UPDATE ---------------------------------------------------------------------------------------------------

refused("6.9 an increment of 0 for the connection", [PROTOCOL_ERROR], frame(WINDOW_UPDATE, 0, 0, u32(0)))
refused("6.9 WINDOW_UPDATE of a wrong length", [FRAME_SIZE_ERROR], frame(WINDOW_UPDATE, 0, 0, b"\0\0\1"))
refused("6.9.1 a window of more than 2^31 - 1 for the connection", [FLOW_CONTROL_ERROR], frame(WINDOW_UPDATE, 0, 0, u32(0x7FFF_FFFF)) * 2)


@case("6.9 an increment of 0 for a stream")
def _(context):
    with context.connect() as link:
        stream = link.get("/silent")
        link.send(frame(WINDOW_UPDATE, 0, stream, u32(0)))
        link.expect_stream_error(stream, PROTOCOL_ERROR)


@case("6.9.1 a window of more than 2^31 - 1 for a stream")
def _(context):
    with context.connect() as link:
        stream = link.get("/silent")
        link.send(frame(WINDOW_UPDATE, 0, stream, u32(0x7FFF_FFFF)) * 2)
        link.expect_stream_error(stream, FLOW_CONTROL_ERROR)


@case("6.9.1 a stream's window is kept to")
def _(context):
    with context.connect(window=False, own_settings=[(INITIAL_WINDOW_SIZE, 0)]) as link:
        stream = link.get("/")
        for sent, size in enumerate([1, 1, 3], start=1):
            total = sum([1, 1, 3][:sent])
            link.expect_pong(f"window {sent}".encode())
            if len(link.stream(stream).body) > total - size:
                raise Wrong("more than the window")
            link.send(frame(WINDOW_UPDATE, 0, stream, u32(size)))
            link.until(lambda: len(link.stream(stream).body) == total, f"{total} bytes")
        link.expect_status(stream, 200)


@case("6.9.1 the connection's window is kept to")
def _(context):
    with context.connect(window=False, own_settings=[(INITIAL_WINDOW_SIZE, 1_000_000)]) as link:
        stream = link.get("/large/200000")
        link.until(lambda: link.received == 65_535, "the first window")
        link.expect_pong()
        if link.received != 65_535:
            raise Wrong("more than the window")
        link.send(frame(WINDOW_UPDATE, 0, 0, u32(200_000)))
        if len(link.expect_status(stream, 200).body) != 200_000:
            raise Wrong("another body")


@case("6.9.2 a window that becomes negative")
def _(context):
    with context.connect(window=False, own_settings=[(INITIAL_WINDOW_SIZE, 3)]) as link:
        stream = link.get("/")
        link.until(lambda: len(link.stream(stream).body) == 3, "three bytes")
        link.send(settings((INITIAL_WINDOW_SIZE, 1)))
        link.until(lambda: link.acked_settings == 2, "an ACK")
        # It is 1 - 3 = -2 now, so that 2 more give 0.
        link.send(frame(WINDOW_UPDATE, 0, stream, u32(2)))
        link.expect_pong()
        if len(link.stream(stream).body) != 3:
            raise Wrong("more than the window")
        link.send(frame(WINDOW_UPDATE, 0, stream, u32(2)))
        link.expect_status(stream, 200)


@case("6.9.2 an initial window that makes a stream's too large")
def _(context):
    with context.connect() as link:
        stream = link.get("/silent")
        link.send(frame(WINDOW_UPDATE, 0, stream, u32(0x7FFF_0000 - 65_535)), settings((INITIAL_WINDOW_SIZE, 0x7FFF_FFFF)))
        link.expect_connection_error(FLOW_CONTROL_ERROR)


@case("6.9 more DATA than the window allows")
def _(context):
    with context.connect() as link:
        stream = link.headers(link.fields("POST", "/unread"), end=False)
        # A backend that does not read stops the windows from growing at some time.
        for _ in range(4000):
            link.send(frame(DATA, 0, stream, b"x" * MAX_FRAME))
            if link.goaway or link.closed or link.stream(stream).reset is not None:
                break
            try:
                while link.read(timeout=0.0001):
                    pass
            except TimeoutError:
                continue
            except Exception:
                break
        link.expect_stream_error(stream, FLOW_CONTROL_ERROR)


# 6.10 CONTINUATION ---------------------------------------------------------------------------------------------------

refused("6.10 CONTINUATION on stream 0", [PROTOCOL_ERROR], frame(HEADERS, END_STREAM, 1, b"\x82"), frame(CONTINUATION, END_HEADERS, 0, b"\x87\x84"))


@case("6.10 CONTINUATION behind the end of a header block")
def _(context):
    with context.connect() as link:
        link.get("/silent")
        link.send(frame(CONTINUATION, END_HEADERS, 1, b"\x82"))
        link.expect_connection_error(PROTOCOL_ERROR, STREAM_CLOSED)


# 7 Error codes -------------------------------------------------------------------------------------------------------


@case("7 unknown error codes")
def _(context):
    with context.connect() as link:
        stream = link.get("/silent")
        link.send(frame(RST_STREAM, 0, stream, u32(0xFFFF_FFFF)))
        link.expect_alive()
        later = link.get("/trickle")
        link.send(frame(GOAWAY, 0, 0, u32(0) + u32(0x1234_5678)))
        link.expect_status(later, 200)
