"""Requests and responses: RFC 9113, section 8, RFC 9110, and RFC 8441."""

import h2_frames
from h2_frames import CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, RST_STREAM, WINDOW_UPDATE, u32
from h2_wire import CANCEL, ENABLE_CONNECT_PROTOCOL, INITIAL_WINDOW_SIZE, NO_ERROR, PROTOCOL_ERROR, Tolerated, Wrong, frame

CASES = []
MALFORMED = (400,)


def case(name):
    def add(function):
        CASES.append((name, function))
        return function

    return add


def fields_of(link, path, changes):
    """The fields of a GET for a path, changed: a list in the place of all, or a function."""
    fields = link.fields(path=path)
    return changes(fields) if callable(changes) else changes


def malformed(name, changes, body=None, answered=MALFORMED):
    """A request that is malformed (RFC 9113, 8.1.1): a stream error, or a status; the backend does not see it."""

    def run(context):
        path = context.unique_path()
        with context.connect() as link:
            stream = link.headers(fields_of(link, path, changes), end=body is None)
            for data, flags in body or ():
                link.send(frame(DATA, flags, stream, data))
            link.expect_stream_error(stream, PROTOCOL_ERROR, CANCEL, answered=answered)
        context.nothing_arrived(path)

    CASES.append((f"8 {name}", run))


def without(name):
    return lambda fields: [field for field in fields if field[0] != name]


def plus(*more):
    return lambda fields: [*fields, *more]


def instead(name, value):
    return lambda fields: [(known, value if known == name else old) for known, old in fields]


def first(*more):
    return lambda fields: [*more, *fields]


# 8.3 Pseudo-fields ---------------------------------------------------------------------------------------------------

malformed("no :method", without(":method"))
malformed("no :scheme", without(":scheme"))
malformed("no :path", without(":path"))
malformed("no :authority and no Host", without(":authority"), answered=(400, 404, 421))
malformed("an empty :path", instead(":path", ""))
malformed("a :path without its slash", lambda fields: [(name, value.lstrip("/") if name == ":path" else value) for name, value in fields])
malformed("a :path that is a URL of elsewhere", instead(":path", "http://evil.test/"))
malformed("a :path * for GET", instead(":path", "*"))
malformed("two :method", first((":method", "GET")))
malformed("two :scheme", first((":scheme", "https")))
malformed("two :path", first((":path", "/other")))
malformed("two :authority", first((":authority", "other.test")))
malformed("an unknown pseudo-field", first((":unknown", "x")))
malformed("a pseudo-field of responses", first((":status", "200")))
malformed("a pseudo-field behind a field", lambda fields: [*fields[:3], ("x", "y"), *fields[3:]])
malformed("an empty name", plus(("", "x")))
malformed("a name that is a colon", first((":", "x")))
malformed("an empty :method", instead(":method", ""))
malformed("an empty :scheme", instead(":scheme", ""))
malformed("an empty :authority", instead(":authority", ""), answered=(400, 404, 421))
malformed("an :authority with a user", lambda fields: [(name, "user@" + value if name == ":authority" else value) for name, value in fields], answered=(400, 404, 421))
malformed("an :authority with a path", lambda fields: [(name, value + "/x" if name == ":authority" else value) for name, value in fields], answered=(400, 404, 421))

# 8.2.1 Names and values ----------------------------------------------------------------------------------------------

for sign in ("X", "xY", "x y", "x\t", "x:", "x\0", "x\r", "x\n", "x\r\ny", "x\x7f", "x\xe9", "x(", "x,", "x/", 'x"', "x@", "x{"):
    malformed(f"the name {sign!r}", plus((sign, "z")))
for value in ("a\r\nb: c", "a\nb", "a\rb", "a\0b", "\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n", "\n", "a\r\n"):
    malformed(f"the value {value!r}", plus(("x", value)))
for value in (" a", "a ", "\ta", "a\t"):

    def run(context, value=value):
        # RFC 9113, 8.2.1 calls these malformed; many take them, and without harm where they are trimmed.
        with context.connect() as link:
            stream = link.get(extra=[("x", value)])
            link.until(lambda: link.stream(stream).ended or link.stream(stream).reset is not None or link.goaway, "an end")

    CASES.append((f"8 the value {value!r}", run))
for name in ("\x01", "\x1b", "\x7f"):
    malformed(f"the control character {name!r} in a value", plus(("x", f"a{name}b")))

# What would be lines of its own in HTTP/1.1
for name in (":method", ":path", ":authority", ":scheme"):
    for value in ("/ HTTP/1.1\r\nX-Smuggled: 1", "/\nx", "/ x", "/\0", "/\r", "GET /smuggled HTTP/1.1"):
        malformed(f"{value!r} in {name}", instead(name, value), answered=(400, 404, 405, 421, 501))
malformed("bytes that are not ASCII in :path", instead(":path", "/\xe9"))


@case("8 a fragment in :path")
def _(context):
    path = context.unique_path()
    with context.connect() as link:
        response = link.response(link.get(path + "#x"))
        if response.status == 200 and [seen.target for seen in context.backend.seen(path)] == [path]:
            raise Tolerated("the library http cuts it off")
        if response.status not in (None, 400):
            raise Wrong(f"{response}")



# 8.2.2 Fields of one connection --------------------------------------------------------------------------------------

for name, value in (
    ("connection", "close"),
    ("connection", "keep-alive"),
    ("connection", "x-own"),
    ("keep-alive", "timeout=5"),
    ("proxy-connection", "keep-alive"),
    ("transfer-encoding", "chunked"),
    ("transfer-encoding", "identity"),
    ("transfer-encoding", "gzip"),
    ("upgrade", "websocket"),
    ("te", "gzip"),
    ("te", "trailers, gzip"),
    ("te", "chunked"),
):
    malformed(f"{name}: {value}", plus((name, value)))
malformed("transfer-encoding: chunked with a body (H2.TE)", plus(("transfer-encoding", "chunked")), [(b"0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n", END_STREAM)])


@case("8.2.2 te: trailers")
def _(context):
    with context.connect() as link:
        link.expect_status(link.get(extra=[("te", "trailers")]), 200)


# 8.1.1 Content-Length ------------------------------------------------------------------------------------------------


def mismatched(name, values, *bodies, method="POST"):
    """The backend may see its beginning, never its end."""

    def run(context):
        path = context.unique_path()
        with context.connect() as link:
            extra = [("content-length", value) for value in values]
            stream = link.headers(link.fields(method, path, extra), end=not bodies)
            for at, data in enumerate(bodies):
                link.send(frame(DATA, END_STREAM if at == len(bodies) - 1 else 0, stream, data))
            link.expect_stream_error(stream, PROTOCOL_ERROR, CANCEL, answered=(400,))
        context.nothing_arrived(path)

    CASES.append((f"8.1.1 {name}", run))


HIDDEN = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"


@case("8.1.1 a content-length of 0 and a body (H2.CL)")
def _(context):
    path = context.unique_path()
    with context.connect() as link:
        stream = link.headers(link.fields("POST", path, [("content-length", "0")]), end=False)
        link.send(frame(DATA, END_STREAM, stream, HIDDEN))
        # The request is whole before its body comes, so it may have been answered.
        link.expect_stream_error(stream, PROTOCOL_ERROR, CANCEL, answered=(200, 400))
    if any(seen.body for seen in context.backend.seen(path)) or context.backend.seen("/smuggled"):
        raise Wrong("the body arrived")


mismatched("a content-length of a part of the body", ["5"], b"hello" + HIDDEN)
mismatched("a content-length of a part of the body in two pieces", ["5"], b"hello", HIDDEN)
mismatched("a content-length of more than the body", ["50"], b"hello")
mismatched("a content-length without body", ["5"])
mismatched("a content-length of a GET without body", ["5"], method="GET")
mismatched("two different content-length", ["5", "6"], b"hello")
mismatched("a content-length that is a list", ["5, 6"], b"hello")
mismatched("a content-length that is no number", ["five"], b"hello")
mismatched("a content-length with a sign", ["+5"], b"hello")
mismatched("a negative content-length", ["-5"], b"hello")
mismatched("a content-length of hexadecimal digits", ["0x5"], b"hello")
mismatched("a content-length that is too large", ["18446744073709551621"], b"hello")
mismatched("an empty content-length", [""], b"hello")

# 8.1 Messages --------------------------------------------------------------------------------------------------------


def echo(context, pieces, extra=(), trailers=None):
    with context.connect() as link:
        stream = link.headers(link.fields("POST", "/echo", extra), end=False)
        for at, data in enumerate(pieces):
            last = at == len(pieces) - 1 and trailers is None
            link.send(frame(DATA, END_STREAM if last else 0, stream, data))
        if trailers is not None:
            link.headers(trailers, stream=stream)
        if bytes(link.expect_status(stream, 200).body) != b"".join(pieces):
            raise Wrong("another body")
        link.expect_alive()


@case("8.1 a body with its content-length")
def _(context):
    echo(context, [b"hello"], [("content-length", "5")])


@case("8.1 a body in pieces, without content-length")
def _(context):
    echo(context, [b"he", b"", b"llo"])


@case("8.1 an empty body with content-length 0")
def _(context):
    echo(context, [b""], [("content-length", "0")])


@case("8.1 trailers")
def _(context):
    echo(context, [b"hello"], trailers=[("x-sum", "1")])


@case("8.1 trailers of a body with content-length")
def _(context):
    echo(context, [b"hello"], [("content-length", "5")], trailers=[("x-sum", "1")])


def wrong_trailers(name, trailers, end=True):
    def run(context):
        path = context.unique_path()
        with context.connect() as link:
            stream = link.headers(link.fields("POST", path), end=False)
            link.send(frame(DATA, 0, stream, b"hello"))
            link.headers(trailers, stream=stream, end=end)
            link.expect_stream_error(stream, PROTOCOL_ERROR, CANCEL, answered=(400,))
        context.nothing_arrived(path)

    CASES.append((f"8.1 {name}", run))


wrong_trailers("a second HEADERS that does not end the stream", [("x-sum", "1")], end=False)


def pseudo_trailers(name, trailers):
    def run(context):
        path = context.unique_path()
        with context.connect() as link:
            stream = link.headers(link.fields("POST", path), end=False)
            link.send(frame(DATA, 0, stream, b"hello"))
            link.headers(trailers, stream=stream)
            response = link.response(stream)
            seen = [(request.method, request.target, request.body) for request in context.backend.seen(path)]
            if context.backend.seen("/smuggled") or context.backend.seen("/x"):
                raise Wrong("they arrived as a request")
            if response.status == 200 and seen == [("POST", path, b"hello")]:
                raise Tolerated("the library h2 drops them")
            if response.status not in (None, 400):
                raise Wrong(f"{response}")

    CASES.append((f"8.1 {name}", run))


pseudo_trailers("a pseudo-field in trailers", [(":path", "/x")])
pseudo_trailers("a second request in the place of trailers", [(":method", "GET"), (":scheme", "https"), (":path", "/smuggled"), (":authority", "x")])
wrong_trailers("a capital letter in trailers", [("X-Sum", "1")])
wrong_trailers("a line end in trailers", [("x-sum", "1\r\nx: y")])
wrong_trailers("transfer-encoding in trailers", [("transfer-encoding", "chunked")])
wrong_trailers("connection in trailers", [("connection", "close")])


@case("8.1 HEAD has no body")
def _(context):
    with context.connect() as link:
        response = link.expect_status(link.headers(link.fields("HEAD", "/")), 200)
        if response.body or dict(response.fields).get(b"content-length") != b"5":
            raise Wrong(f"{response}")


@case("8.1 a response without body")
def _(context):
    with context.connect() as link:
        link.expect_status(link.get("/none"), 204)


@case("8.1 trailers of a response come")
def _(context):
    with context.connect() as link:
        response = link.expect_status(link.get("/trickle"), 200)
        if response.trailers is None or dict(response.trailers).get(b"x-sum") != b"20":
            raise Wrong(f"the trailers {response.trailers}")


@case("8.1 a response that breaks off is reset")
def _(context):
    with context.connect() as link:
        stream = link.get("/cut")
        response = link.response(stream)
        if response.ended and response.status == 200:
            raise Wrong("it seems whole")
        link.expect_alive()


@case("8.2.2 fields of one connection do not come")
def _(context):
    with context.connect() as link:
        names = [name for name, _ in link.expect_status(link.get("/hop"), 200).fields]
        if b"x-own" in names or b"x-mixed" not in names:
            raise Wrong(f"the fields {names}")


@case("8.1 interim answers come before the answer")
def _(context):
    with context.connect() as link:
        response = link.expect_status(link.get("/hints"), 200)
        if response.interim != [103, 103] or response.hints != [(b"link", b"</x>"), (b"link", b"</y>")]:
            raise Wrong(f"{response.interim} with {response.hints}")


@case("8.1 interim answers without end are not handed on without end")
def _(context):
    with context.connect() as link:
        response = link.expect_status(link.get("/hints/2000"), 200, 502)
        if len(response.interim) > 1000:
            raise Wrong(f"{len(response.interim)} interim answers")


@case("8.1 Expect: 100-continue")
def _(context):
    with context.connect() as link:
        stream = link.headers(link.fields("POST", "/echo", [("expect", "100-continue"), ("content-length", "5")]), end=False)
        link.until(lambda: link.stream(stream).interim == [100], "100")
        link.send(frame(DATA, END_STREAM, stream, b"hello"))
        link.expect_status(stream, 200)
        if link.stream(stream).interim != [100]:
            raise Wrong(f"{link.stream(stream).interim}")


@case("8.1 Expect: 100-continue with the body at once")
def _(context):
    with context.connect() as link:
        fields = [("expect", "100-continue"), ("content-length", "5")]
        stream = link.headers(link.fields("POST", "/echo", fields), end=False)
        link.send(frame(DATA, END_STREAM, stream, b"hello"))
        if link.expect_status(stream, 200).body != b"hello":
            raise Wrong("another body")


# How it arrives ------------------------------------------------------------------------------------------------------


def arrives(name, extra, check, **changed):
    def run(context):
        path = context.unique_path()
        with context.connect() as link:
            own = [(field, value.replace("{authority}", link.authority)) for field, value in extra]
            link.expect_status(link.headers(link.fields(path=path, extra=own, **changed)), 200)
            seen = context.backend.seen(path)
            if len(seen) != 1 or not check(seen[0], link):
                raise Wrong(f"it arrived as {[request.fields for request in seen]}")

    CASES.append((f"8.3 {name}", run))


arrives("Host is :authority", [], lambda seen, link: seen.all(b"host") == [link.authority.encode()])
arrives("a Host that is :authority too", [("host", "{authority}")], lambda seen, link: seen.all(b"host") == [link.authority.encode()])
arrives("crumbs of a cookie are one field", [("cookie", "a=b"), ("cookie", "c=d"), ("cookie", "e=f")], lambda seen, link: seen.all(b"cookie") == [b"a=b; c=d; e=f"])
arrives("other fields stay several", [("x", "1"), ("x", "2")], lambda seen, link: seen.all(b"x") == [b"1", b"2"])
arrives("bytes that are not ASCII", [("x", "\xe9\xff")], lambda seen, link: seen.all(b"x") == [b"\xe9\xff"])
arrives("a large field", [("x", "y" * 40_000)], lambda seen, link: seen.all(b"x") == [b"y" * 40_000])
arrives("fifty fields", [(f"x-{number}", "y") for number in range(50)], lambda seen, link: seen.all(b"x-49") == [b"y"])
arrives("te does not arrive as gzip", [("te", "trailers")], lambda seen, link: seen.all(b"te") in ([], [b"trailers"]))
arrives("what a client says of its origin is not believed", [("x-forwarded-for", "6.6.6.6"), ("x-forwarded-proto", "http")], lambda seen, link: seen.all(b"x-forwarded-for") == [b"127.0.0.1"] and seen.all(b"x-forwarded-proto") == [b"https"])


@case("8.3.1 Host without :authority")
def _(context):
    path = context.unique_path()
    with context.connect() as link:
        stream = link.headers(link.fields(path=path, authority=None, extra=[("host", link.authority)]))
        response = link.response(stream)
        if response.status not in (200, 400) and response.reset is None:
            raise Wrong(f"{response}")


@case("8.3.1 a Host that is not :authority")
def _(context):
    path = context.unique_path()
    with context.connect() as link:
        link.response(link.get(path, extra=[("host", "evil.test")]))
        for seen in context.backend.seen(path):
            if seen.all(b"host") != [link.authority.encode()]:
                raise Wrong(f"Host is {seen.all(b'host')}")


@case("8.3.1 OPTIONS *")
def _(context):
    with context.connect() as link:
        response = link.response(link.headers(link.fields("OPTIONS", "*")))
        if response.status not in (200, 400, 405, 501) and response.reset is None:
            raise Wrong(f"{response}")
        if context.backend.seen("/*"):
            raise Wrong("it arrived as /*")


def too_large(name, status, fields):
    def run(context):
        path = context.unique_path()
        with context.connect() as link:
            stream = link.headers(fields(link, path))
            response = link.stream(stream)
            try:
                link.until(lambda: response.ended or response.reset is not None or link.goaway, "an end")
            except Wrong:
                if not link.closed:
                    raise
            if response.status not in (None, *status):
                raise Wrong(f"{response}")
        context.nothing_arrived(path)

    CASES.append((f"10.5.1 {name}", run))


too_large("a field that is too large", (431,), lambda link, path: link.fields(path=path, extra=[("x", "y" * 100_000)]))
too_large("fields that are too large in all", (431,), lambda link, path: link.fields(path=path, extra=[(f"x-{number}", "y" * 1000) for number in range(99)]))
too_large("fields that are too many", (431,), lambda link, path: link.fields(path=path, extra=[("x", "y")] * 5000))
too_large("a :path that is too long", (414, 431), lambda link, path: link.fields(path=path + "x" * 60_000))

# Many at once, with the real client of the library -----------------------------------------------------------------------


@case("5.1.2 a hundred requests at a time, whole bodies")
def _(context):
    with context.connect() as link:
        streams = {link.get(f"/large/{1000 + number}"): 1000 + number for number in range(100)}
        for stream, size in streams.items():
            if len(link.expect_status(stream, 200).body) != size:
                raise Wrong("another body")


@case("5.1.2 a thousand requests, one after the other")
def _(context):
    with context.connect() as link:
        for _ in range(1000):
            link.expect_status(link.get("/"), 200)


@case("6.9 a large response, and others meanwhile")
def _(context):
    with context.connect(own_settings=[(INITIAL_WINDOW_SIZE, 1 << 20)]) as link:
        large = link.get("/large/20000000")
        for _ in range(10):
            link.expect_alive()
        if len(link.expect_status(large, 200).body) != 20_000_000:
            raise Wrong("another body")


@case("6.9 a stalled stream does not stall others")
def _(context):
    with context.connect(window=False, own_settings=[(INITIAL_WINDOW_SIZE, 10_000)]) as link:
        stalled = link.get("/large/1000000")
        link.until(lambda: len(link.stream(stalled).body) == 10_000, "its window")
        for _ in range(5):
            link.expect_alive()


@case("6.9 uploads by the library's own client")
def _(context):
    import h2.config
    import h2.connection
    import h2.events

    with context.connect(preface=False) as link:
        client = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding=None))
        client.initiate_connection()
        left, got, ended = {}, {}, set()
        for _ in range(4):
            stream = client.get_next_available_stream_id()
            client.send_headers(stream, [(name, value) for name, value in link.fields("POST", "/echo")])
            left[stream], got[stream] = 2_000_000, 0
        while len(ended) < len(left):
            for stream in left:
                while left[stream]:
                    size = min(left[stream], client.local_flow_control_window(stream), client.max_outbound_frame_size)
                    if size <= 0:
                        break
                    left[stream] -= size
                    client.send_data(stream, b"x" * size, end_stream=not left[stream])
            link.send(client.data_to_send())
            data = link.socket.recv(65_536)
            if not data:
                raise Wrong("closed")
            for event in client.receive_data(data):
                if isinstance(event, h2.events.DataReceived):
                    got[event.stream_id] += len(event.data)
                    client.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                elif isinstance(event, h2.events.StreamEnded):
                    ended.add(event.stream_id)
                elif isinstance(event, (h2.events.StreamReset, h2.events.ConnectionTerminated)):
                    raise Wrong(f"{event}")
        if set(got.values()) != {2_000_000}:
            raise Wrong(f"{got}")


# 8.5 CONNECT, and RFC 8441 -------------------------------------------------------------------------------------------


def no_tunnel(name, *statuses, **changed):
    def run(context):
        with context.connect() as link:
            stream = link.headers(link.fields("CONNECT", extra=changed.pop("more", ()), **changed), end=False)
            link.expect_stream_error(stream, PROTOCOL_ERROR, CANCEL, 10, 7, answered=statuses)

    CASES.append((f"8.5 {name}", run))


no_tunnel("CONNECT", 400, 403, 404, 405, 421, 501, scheme=None, path=None)
no_tunnel("CONNECT with a path and no protocol", 400, 405, 501)
no_tunnel("CONNECT without :authority", 400, 405, 501, scheme=None, path=None, authority=None)


@case("8441 it is announced")
def _(context):
    with context.connect() as link:
        if link.settings.get(ENABLE_CONNECT_PROTOCOL) != 1:
            raise Wrong("SETTINGS_ENABLE_CONNECT_PROTOCOL is not 1")


def websocket(link, path="/websocket", protocol="websocket", **changed):
    extra = [("sec-websocket-version", "13"), ("origin", "https://x.test")]
    fields = link.fields("CONNECT", path, extra, **changed)
    return link.headers([fields[0], (":protocol", protocol), *fields[1:]], end=False)


@case("8441 a WebSocket: bytes go both ways, and its end is its end")
def _(context):
    with context.connect() as link:
        stream = websocket(link)
        link.until(lambda: link.stream(stream).fields or link.stream(stream).reset is not None, "an answer")
        response = link.stream(stream)
        if response.status != 200 or response.ended:
            raise Wrong(f"{response}")
        names = [name for name, _ in response.fields]
        if b"sec-websocket-accept" in names or b"upgrade" in names:
            raise Wrong(f"fields of HTTP/1.1's handshake: {names}")
        for number in range(1, 6):
            link.send(frame(DATA, 0, stream, b"x" * 1000))
            link.until(lambda: len(response.body) == 1000 * number, "the echo")
        link.expect_alive()
        seen = context.backend.seen("/websocket")[-1]
        if seen.method != "GET" or len(seen.all(b"sec-websocket-key")) != 1 or seen.all(b"upgrade") != [b"websocket"]:
            raise Wrong(f"it arrived as {seen.fields}")
        before = context.backend.under_way
        link.send(frame(DATA, END_STREAM, stream, b""))
        link.until(lambda: response.ended or response.reset in (NO_ERROR, CANCEL), "the end")
        context.until(lambda: context.backend.under_way < before, "the end at the backend")


@case("8441 several WebSockets and requests on one connection")
def _(context):
    with context.connect() as link:
        streams = [websocket(link) for _ in range(20)]
        for stream in streams:
            link.send(frame(DATA, 0, stream, b"%d" % stream))
        link.expect_alive()
        for stream in streams:
            link.until(lambda: link.stream(stream).body == b"%d" % stream, "the echo")


@case("8441 a WebSocket that is reset is over for the backend")
def _(context):
    before = context.backend.under_way
    with context.connect() as link:
        stream = websocket(link)
        link.until(lambda: link.stream(stream).status == 200, "an answer")
        link.send(frame(RST_STREAM, 0, stream, u32(CANCEL)))
        context.until(lambda: context.backend.under_way <= before, "the end at the backend")
        link.expect_alive()


@case("8441 a reset ends the backend's side at once, an end does not")
def _(context):
    before = context.backend.under_way
    with context.connect() as link:
        for ends_first in (False, True):
            stream = websocket(link, path="/websocket/talks")
            response = link.stream(stream)
            link.until(lambda: response.status == 200, "an answer")
            if ends_first:
                link.send(frame(DATA, END_STREAM, stream, b""))
                link.until(lambda: len(response.body) > 5, "what the backend says to a client that has ended")
            link.send(frame(RST_STREAM, 0, stream, u32(CANCEL)))
            context.until(lambda: context.backend.under_way <= before, "the end at the backend")
            link.expect_alive()


@case("8441 a backend that says nothing is rid of a client that has ended and then resets")
def _(context):
    with context.connect() as link:
        stream = websocket(link, path="/websocket/waits")
        link.until(lambda: link.stream(stream).status == 200, "an answer")
        link.send(frame(DATA, END_STREAM, stream, b""))
        link.expect_alive()
        link.send(frame(RST_STREAM, 0, stream, u32(CANCEL)))
        context.until(lambda: "/websocket/waits" not in context.backend.left(), "the end at the backend")
        link.expect_alive()


@case("8441 a WebSocket whose request says that it has a body")
def _(context):
    with context.connect() as link:
        extra = [("content-length", "5")]
        fields = link.fields("CONNECT", "/websocket", extra)
        stream = link.headers([fields[0], (":protocol", "websocket"), *fields[1:]], end=False)
        link.expect_stream_error(stream, PROTOCOL_ERROR, CANCEL, answered=(400,))
        link.expect_alive()


@case("8441 a WebSocket that the backend does not take")
def _(context):
    with context.connect() as link:
        stream = websocket(link, path="/")
        response = link.stream(stream)
        link.until(lambda: response.fields or response.reset is not None, "an answer")
        if response.status is not None and response.status < 300 and not response.ended:
            link.until(lambda: response.ended or response.reset is not None, "an end")
        link.expect_alive()


def no_protocol(name, codes_or_statuses, change):
    def run(context):
        with context.connect() as link:
            stream = link.headers(change(link.fields("CONNECT", "/websocket")), end=False)
            link.expect_stream_error(stream, PROTOCOL_ERROR, CANCEL, 7, 10, answered=codes_or_statuses)
        context.nothing_arrived("/never")

    CASES.append((f"8441 {name}", run))


no_protocol("an unknown protocol", (400, 405, 501), first((":protocol", "unknown")))
no_protocol("an empty protocol", (400, 405, 501), first((":protocol", "")))
no_protocol("a protocol with a line end", (400, 405, 501), first((":protocol", "websocket\r\nx: y")))
no_protocol("two protocols", (400, 405, 501), first((":protocol", "websocket"), (":protocol", "websocket")))
no_protocol("a protocol without :path", (400, 405, 501), lambda fields: [(":protocol", "websocket"), *without(":path")(fields)])
no_protocol("a protocol without :scheme", (400, 405, 501), lambda fields: [(":protocol", "websocket"), *without(":scheme")(fields)])
no_protocol("a protocol of GET", (400, 405, 501), lambda fields: [(":protocol", "websocket"), *instead(":method", "GET")(fields)])
