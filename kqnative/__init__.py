"""A TCP message server whose event loop is C on kqueue() and kevent().

from kqnative import Server

with Server(port=0, reply=lambda message: message.upper()) as server:
    print(server.port)
    server.run()
"""

import logging

from kqnative._version import __version__
from kqnative.config import Config
from kqnative.errors import ConfigError, KqnativeError, ListenError
from kqnative.server import Server
from kqnative.stats import Stats

__all__ = ["Config", "ConfigError", "KqnativeError", "ListenError", "Server", "Stats", "__version__"]

# A library prints nothing: without a handler of its own, warnings would go to the standard error.
logging.getLogger(__name__).addHandler(logging.NullHandler())
