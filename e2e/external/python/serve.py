"""A server on the Python SDK as its documentation makes one: with sessions, the tool echo, the prompt greet and the resource test://motto. Its
argument is the port."""

import sys

from mcp.server.mcpserver import MCPServer
from mcp_types import Completion

server = MCPServer("python-sdk", log_level="ERROR")


@server.tool(structured_output=False)
def echo(message: str) -> str:
    """Gives the message back"""
    return message


@server.prompt()
def greet(name: str = "") -> str:
    return f"Hello {name}"


@server.resource("test://motto", mime_type="text/plain")
def motto() -> str:
    return "motto"


@server.completion()
async def complete(ref, argument, context):
    return Completion(values=["Ada"])


server.run(transport="streamable-http", port=int(sys.argv[1]))
