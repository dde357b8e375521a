"""RESP to one server address: `blocking` for threads, `pipelined` for asyncio, `memory` without a server."""
