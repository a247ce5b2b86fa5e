"""A client of HTTP/2 that sends any frames, valid or not, and says what came of them. RFC 9113."""

import socket
import ssl
import time

import hpack
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    PushPromiseFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
PATIENCE_SECS = 8.0
MAX_FRAME = 16_384

NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, FLOW_CONTROL_ERROR = 0, 1, 2, 3
SETTINGS_TIMEOUT, STREAM_CLOSED, FRAME_SIZE_ERROR, REFUSED_STREAM = 4, 5, 6, 7
CANCEL, COMPRESSION_ERROR, CONNECT_ERROR, ENHANCE_YOUR_CALM = 8, 9, 10, 11

HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE = 1, 2, 3, 4
MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE, ENABLE_CONNECT_PROTOCOL = 5, 6, 8


class Wrong(Exception):
    """What came is not what RFC 9113 wants."""


class Tolerated(Exception):
    """What came is not what RFC 9113 wants, but the fault is a library's and does no harm."""


class Closed(Exception):
    """The server closed the connection."""


def frame(kind, flags, stream, payload=b"", length=None):
    """A frame of any bytes; `length` is what it says that it has."""
    length = len(payload) if length is None else length
    return length.to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def settings(*pairs, flags=0, stream=0):
    payload = b"".join(key.to_bytes(2, "big") + value.to_bytes(4, "big") for key, value in pairs)
    return frame(4, flags, stream, payload)


class Response:
    """What has come on one stream."""

    def __init__(self):
        self.interim, self.hints, self.fields, self.trailers = [], [], None, None
        self.body = bytearray()
        self.ended, self.reset = False, None

    @property
    def status(self):
        return int(dict(self.fields)[b":status"]) if self.fields else None

    def __repr__(self):
        return f"status {self.status}, {len(self.body)} bytes, ended {self.ended}, reset {self.reset}"


class Connection:
    """One connection. Frames that come are checked and kept by stream."""

    said_less = 0

    def __init__(self, front, authority, tls=True, preface=True, own_settings=(), window=True, small_receive_buffer=False):
        raw = socket.socket()
        if small_receive_buffer:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.settimeout(PATIENCE_SECS)
        raw.connect(front)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls:
            context = ssl.create_default_context()
            # Which certificate is served is looked at elsewhere.
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            context.set_alpn_protocols(["h2"])
            self.socket = context.wrap_socket(raw, server_hostname=authority.split(":")[0])
            if self.socket.selected_alpn_protocol() != "h2":
                raise Wrong(f"the server chose {self.socket.selected_alpn_protocol()} of ALPN, not h2")
        else:
            self.socket = raw
        self.authority, self.window = authority, window
        self.buffer = bytearray()
        self.encoder, self.decoder = hpack.Encoder(), hpack.Decoder()
        self.streams, self.next_stream = {}, 1
        self.settings, self.goaway = None, None
        self.acked_settings, self.pongs = 0, []
        self.block, self.received = None, 0
        self.closed = False
        if preface:
            self.send(PREFACE + settings(*own_settings))
            self.until(lambda: self.settings is not None and self.acked_settings, "SETTINGS and an ACK of ours")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.socket.close()

    # Sending

    def send(self, *parts):
        """Sends frames or bytes; what the server does not take any more is not sent."""
        data = b"".join(part if isinstance(part, (bytes, bytearray)) else part.serialize() for part in parts)
        try:
            self.socket.sendall(data)
        except (OSError, ssl.SSLError) as error:
            if isinstance(error, TimeoutError):
                raise Wrong("the server takes no more bytes, and does not close") from error

    def fields(self, method="GET", path="/", extra=(), **changed):
        """The fields of a request; `None` leaves one out."""
        pseudo = {":method": method, ":scheme": "https", ":authority": self.authority, ":path": path}
        pseudo.update({f":{name}": value for name, value in changed.items()})
        return [(name, value) for name, value in pseudo.items() if value is not None] + list(extra)

    def encoded(self, fields):
        return self.encoder.encode([(_bytes(name), _bytes(value)) for name, value in fields], huffman=False)

    def headers(self, fields, stream=None, end=True, end_headers=True):
        """HEADERS with fields, and the stream's number."""
        if stream is None:
            stream, self.next_stream = self.next_stream, self.next_stream + 2
        block = fields if isinstance(fields, bytes) else self.encoded(fields)
        parts = [block[at : at + MAX_FRAME] for at in range(0, len(block), MAX_FRAME)] or [b""]
        last = len(parts) - 1
        for at, part in enumerate(parts):
            flags = (4 if end_headers and at == last else 0) | (1 if end and at == 0 else 0)
            self.send(frame(1 if at == 0 else 9, flags, stream, part))
        return stream

    def get(self, path="/", **more):
        return self.headers(self.fields(path=path, **more))

    # Receiving

    def stream(self, number):
        return self.streams.setdefault(number, Response())

    def read(self, timeout=PATIENCE_SECS):
        """Takes the next frame. Raises TimeoutError or Closed."""
        deadline = time.monotonic() + timeout
        while True:
            if len(self.buffer) >= 9:
                got, length = Frame.parse_frame_header(memoryview(bytes(self.buffer[:9])))
                if length > MAX_FRAME:
                    raise Wrong(f"a frame of {length} bytes, more than we allow")
                if len(self.buffer) >= 9 + length:
                    got.parse_body(memoryview(bytes(self.buffer[9 : 9 + length])))
                    del self.buffer[: 9 + length]
                    self._take(got, length)
                    return got
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self.socket.settimeout(left)
            try:
                data = self.socket.recv(65_536)
            except TimeoutError:
                raise
            except (OSError, ssl.SSLError):
                data = b""
            finally:
                self.socket.settimeout(PATIENCE_SECS)
            if not data:
                self.closed = True
                raise Closed
            self.buffer += data

    def _take(self, got, length):
        if self.block is not None and not isinstance(got, ContinuationFrame):
            raise Wrong(f"{type(got).__name__} within a header block")
        if isinstance(got, SettingsFrame):
            if "ACK" in got.flags:
                self.acked_settings += 1
            else:
                self.settings = {**(self.settings or {}), **got.settings}
                self.send(settings(flags=1))
        elif isinstance(got, PingFrame):
            if "ACK" in got.flags:
                self.pongs.append(got.opaque_data)
            else:
                self.send(frame(6, 1, 0, got.opaque_data))
        elif isinstance(got, GoAwayFrame):
            self.goaway = got
        elif isinstance(got, RstStreamFrame):
            if got.stream_id == 0:
                raise Wrong("RST_STREAM of stream 0")
            self.stream(got.stream_id).reset = got.error_code
        elif isinstance(got, (HeadersFrame, ContinuationFrame)):
            self._take_block(got)
        elif isinstance(got, DataFrame):
            response = self.stream(got.stream_id)
            if response.fields is None or response.ended:
                raise Wrong("DATA where none may be")
            response.body += got.data
            response.ended |= "END_STREAM" in got.flags
            self.received += length
            if self.window and length:
                update = frame(8, 0, 0, length.to_bytes(4, "big"))
                self.send(update if response.ended else update + frame(8, 0, got.stream_id, length.to_bytes(4, "big")))
        elif isinstance(got, PushPromiseFrame):
            raise Wrong("PUSH_PROMISE")

    def _take_block(self, got):
        if isinstance(got, HeadersFrame):
            self.block = (got.stream_id, "END_STREAM" in got.flags, bytearray())
        if self.block is None or self.block[0] != got.stream_id:
            raise Wrong("CONTINUATION without HEADERS")
        stream, ended, block = self.block
        block += got.data
        if "END_HEADERS" not in got.flags:
            return
        self.block = None
        fields, response = self.decoder.decode(bytes(block), raw=True), self.stream(stream)
        if response.ended or response.reset is not None:
            raise Wrong("HEADERS on a stream that is over")
        _check_response(fields, trailers=response.fields is not None)
        if response.fields is not None:
            response.trailers = fields
        elif dict(fields)[b":status"].startswith(b"1"):
            response.interim.append(int(dict(fields)[b":status"]))
            response.hints += fields[1:]
        else:
            response.fields = fields
        response.ended |= ended

    # Waiting

    def until(self, done, what, timeout=PATIENCE_SECS):
        """Takes frames until something holds."""
        deadline = time.monotonic() + timeout
        while not done():
            try:
                self.read(max(0.001, deadline - time.monotonic()))
            except TimeoutError:
                raise Wrong(f"{what} did not come") from None
            except Closed:
                code = self.goaway.error_code if self.goaway else None
                raise Wrong(f"closed (GOAWAY {code}) where {what} was due") from None

    def response(self, stream, timeout=PATIENCE_SECS):
        """The whole response of a stream."""
        response = self.stream(stream)
        self.until(lambda: response.ended or response.reset is not None, f"a response on stream {stream}", timeout)
        return response

    def expect_status(self, stream, *statuses):
        response = self.response(stream)
        if not response.ended or response.status not in statuses:
            raise Wrong(f"{response} where status {statuses} was due")
        return response

    def expect_pong(self, data=b"still ok"):
        self.send(frame(6, 0, 0, data))
        self.until(lambda: data in self.pongs, "a PING's ACK")

    def expect_alive(self):
        """Other streams are served."""
        self.expect_status(self.get("/"), 200)

    def drain(self, timeout=PATIENCE_SECS):
        """Takes frames until the server closes. False where it does not."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                self.read(max(0.001, deadline - time.monotonic()))
            except TimeoutError:
                return False
            except Closed:
                return True

    def expect_connection_error(self, *codes):
        """GOAWAY with such a code, then the end; or the end alone, as RFC 9113, 5.4.1, allows."""
        if not self.drain():
            raise Wrong(f"the connection goes on (GOAWAY {self.goaway and self.goaway.error_code}) where an error {codes} was due")
        if self.goaway and not self._is_one_of(self.goaway.error_code, codes):
            raise Wrong(f"GOAWAY with {self.goaway.error_code} where {codes} was due")

    def _is_one_of(self, code, codes):
        """The library h2 of Rust ends most of its connections with PROTOCOL_ERROR, which RFC 9113, 7 keeps for where
        there is no code that says more. That is passed, and counted."""
        if code == PROTOCOL_ERROR and code not in codes:
            Connection.said_less += 1
            return True
        return code in codes

    def expect_stream_error(self, stream, *codes, answered=()):
        """RST_STREAM with such a code, or an answer with such a status, and others are served; or a connection error."""
        response = self.stream(stream)
        try:
            self.until(lambda: response.ended or response.reset is not None or self.goaway, "the end of a stream")
        except Wrong:
            if self.closed:
                return
            raise
        if response.fields and response.status in answered:
            return
        if response.reset is not None and (response.reset in codes or response.reset == NO_ERROR and response.ended):
            self.expect_alive()
            return
        if self.goaway and self._is_one_of(self.goaway.error_code, codes):
            return
        raise Wrong(f"{response}, GOAWAY {self.goaway and self.goaway.error_code}, where a stream error {codes} was due")


def _bytes(text):
    return text if isinstance(text, bytes) else text.encode("latin-1")


def _check_response(fields, trailers):
    names = [name for name, _ in fields]
    pseudo = [name for name in names if name.startswith(b":")]
    if pseudo != ([] if trailers else [b":status"]) or names[: len(pseudo)] != pseudo:
        raise Wrong(f"pseudo-fields {pseudo}")
    for name in names:
        if name.lower() != name or name in (b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"):
            raise Wrong(f"the field {name!r} in HTTP/2")
