"""A server on uvloop: PORT MODE. All but the loop, the protocols above all, is that of the peer `asyncio`."""

import uvloop
from peers.asyncio.server import main

if __name__ == "__main__":
    main(uvloop.run)
