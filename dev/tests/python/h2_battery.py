#!/usr/bin/env python3
"""HTTP/2 as RFC 9113 wants it, frame by frame, against a real server in front of a backend of this program's.

Says where its backend listens (`backend ADDRESS:PORT`), reads where the server listens (`front ADDRESS:PORT AUTHORITY
PID`, the server's process, 0 where it is not known) and prints a line for each case. Needs h2, hpack and hyperframe.
"""

import argparse
import itertools
import sys
import time
import traceback

import h2_backend
import h2_floods
import h2_frames
import h2_messages
import h2_waits
from h2_wire import Connection, PATIENCE_SECS, Tolerated, Wrong


class Context:
    """What a case can use."""

    def __init__(self, backend, front, authority, pid):
        self.backend, self.front, self.authority, self.pid = backend, front, authority, pid
        self.numbers = itertools.count(1)

    def connect(self, **more):
        return Connection(self.front, self.authority, **more)

    def unique_path(self):
        return f"/case-{next(self.numbers)}"

    def until(self, holds, what):
        deadline = time.monotonic() + PATIENCE_SECS
        while not holds():
            if time.monotonic() > deadline:
                raise Wrong(f"{what} did not come")
            time.sleep(0.01)

    def nothing_left(self):
        """Waits until the backend has no request under way."""
        try:
            self.until(lambda: not self.backend.left(), "the end of all requests")
        except Wrong:
            raise Wrong(f"requests stay open at the backend: {self.backend.left()[:5]} of {len(self.backend.left())}") from None

    def nothing_arrived(self, path):
        """The backend has seen no whole request for a path, and nothing that a request hid."""
        with self.connect() as link:
            link.expect_alive()
        for seen in (path, "/smuggled"):
            if self.backend.seen(seen):
                raise Wrong(f"{seen} arrived at the backend")

    def memory(self):
        """What the server has in memory, in bytes."""
        if not self.pid:
            return 0
        with open(f"/proc/{self.pid}/status") as status:
            line = next(line for line in status if line.startswith("RssAnon"))
        return int(line.split()[1]) << 10


def run(context, name, function):
    violations = len(context.backend.violations)
    tolerated = None
    try:
        function(context)
    except Tolerated as reason:
        tolerated = str(reason)
    except Wrong as wrong:
        return str(wrong), None
    except Exception:
        return traceback.format_exc(limit=-3).replace("\n", " | "), None
    if len(context.backend.violations) > violations:
        return f"the backend got {context.backend.violations[-1]}", None
    return None, tolerated


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--only", default="", help="cases whose names hold this")
    arguments.add_argument("--part", choices=["frames", "messages", "floods", "waits"], action="append", help="all where none is named")
    options = arguments.parse_args()
    parts = {"frames": h2_frames.CASES, "messages": h2_messages.CASES, "floods": h2_floods.CASES, "waits": h2_waits.CASES}
    backend = h2_backend.Backend()
    print("backend {}:{}".format(*backend.address), flush=True)
    _, front, authority, pid = sys.stdin.readline().split()
    address, port = front.rsplit(":", 1)
    context = Context(backend, (address, int(port)), authority, int(pid))
    passed, failed = 0, 0
    for part in options.part or parts:
        for name, function in parts[part]:
            if options.only not in name:
                continue
            began = time.monotonic()
            fault, tolerated = run(context, name, function)
            passed, failed = passed + (fault is None), failed + (fault is not None)
            took = time.monotonic() - began
            said = fault or tolerated
            outcome = "FAILED" if fault else "tolerated" if tolerated else "ok"
            print(f"{outcome} {name} ({took:.2f} s){': ' + said if said else ''}", flush=True)
    print(f"{Connection.said_less} errors had a less specific code than RFC 9113 names")
    print(f"{passed} passed, {failed} failed", flush=True)
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
