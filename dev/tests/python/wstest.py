"""Runs the Autobahn test suite, which is in the folder of the first argument. For Python 2.7; see dev/setup."""

import site
import sys

# Some of its packages are found by path files, which Python reads where it is told to only.
site.addsitedir(sys.argv.pop(1))

from autobahntestsuite import fuzzing, wstest

# Clients that come through a proxy name the proxy's port. The server would refuse them.
fuzzing.FuzzingServerFactory.externalPort = property(lambda factory: None, lambda factory, port: None)
wstest.run()
