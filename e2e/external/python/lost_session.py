"""A client on the Python SDK whose session ends elsewhere. Its argument is a URL. It opens a session and calls a tool, waits for a line on
standard input, and calls it again: in the same session, and in a new one. Each step prints one line of JSON."""

import asyncio
import json
import sys

from mcp.client import Client
from mcp.shared.exceptions import MCPError

SESSION_NOT_FOUND = -32001


async def call(client):
    try:
        result = await client.call_tool("fixture_echo", {"message": "hi"})
        return {"failed": result.is_error}
    except MCPError as error:
        return {"error": error.error.message, "noticed": error.error.code == SESSION_NOT_FOUND}


async def main():
    (url,) = sys.argv[1:]
    async with Client(url, mode="legacy") as client:
        print(json.dumps(await call(client)), flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        print(json.dumps(await call(client)), flush=True)
    async with Client(url, mode="legacy") as client:
        print(json.dumps(await call(client)), flush=True)


asyncio.run(main())
