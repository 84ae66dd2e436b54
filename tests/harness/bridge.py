"""A way from one network namespace into another: connections to one address go on to another one.

python tests/harness/bridge.py unix:/shared/bridge.sock tcp:8333     on this side
python tests/harness/bridge.py tcp:8333 unix:/shared/bridge.sock     inside a container without network
"""

from __future__ import annotations

import asyncio
import sys

Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def dial(address: str) -> Ends:
    """Connect to ``tcp:PORT`` of the loopback interface, or ``unix:PATH``."""
    kind, _, place = address.partition(":")
    if kind == "tcp":
        return await asyncio.open_connection("127.0.0.1", int(place))
    return await asyncio.open_unix_connection(place)


async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Hand over what comes until nothing more does."""
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        return
    finally:
        writer.close()


async def serve(listen: str, connect: str) -> None:
    """Listen for ever."""

    async def came(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await dial(connect)
        await asyncio.gather(pass_on(reader, back), pass_on(there, writer))

    kind, _, place = listen.partition(":")
    if kind == "tcp":
        server = await asyncio.start_server(came, "127.0.0.1", int(place))
    else:
        server = await asyncio.start_unix_server(came, place)
    print("listening", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], sys.argv[2]))
