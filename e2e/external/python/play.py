"""A client on the Python SDK that plays conversations, several at a time, however they go. Its argument is a file with a list of {name, url,
requests: [{method, params}], seconds}. For each it prints one line of JSON: {name, connect, outcomes}, where `connect` is what went wrong with the
connection, and an outcome is {result} or {error: {code, message}} as the SDK gives it."""

import asyncio
import json
import logging
import ssl
import sys

from mcp.client import Client
from mcp.shared.exceptions import MCPError

# How many conversations go on at a time.
AT_A_TIME = 16

# No conversation is encrypted, and reading the authorities anew for each client takes most of its time.
ssl.SSLContext.load_verify_locations = lambda *_, **__: None


def plain(value):
    return value.model_dump(mode="json", by_alias=True, exclude_none=True)


async def pages(ask):
    result, cursor = None, None
    while True:
        page = plain(await ask(cursor=cursor))
        if result is None:
            result = page
        else:
            for key, value in page.items():
                if isinstance(value, list):
                    result[key] += value
        cursor = page.pop("nextCursor", None)
        result.pop("nextCursor", None)
        if cursor is None:
            return result


async def run(client, method, params):
    match method:
        case "tools/list":
            return await pages(client.list_tools)
        case "prompts/list":
            return await pages(client.list_prompts)
        case "resources/list":
            return await pages(client.list_resources)
        case "resources/templates/list":
            return await pages(client.list_resource_templates)
        case "tools/call":
            return plain(await client.call_tool(params["name"], params.get("arguments")))
        case "prompts/get":
            return plain(await client.get_prompt(params["name"], params.get("arguments")))
        case "resources/read":
            return plain(await client.read_resource(params["uri"]))
        case "ping":
            return plain(await client.send_ping())
    raise ValueError(f"unknown method {method}")


def failure(error):
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, MCPError):
        return {"code": error.error.code, "message": error.error.message}
    return {"code": None, "message": f"{type(error).__name__}: {error}"}


async def converse(conversation):
    seconds = conversation["seconds"]
    line = {"name": conversation["name"], "connect": None, "outcomes": []}
    client = Client(conversation["url"], mode="legacy")
    try:
        await asyncio.wait_for(client.__aenter__(), seconds)
    except Exception as error:
        line["connect"] = failure(error)
        return line
    late = None
    for request in conversation["requests"]:
        if late is not None:
            line["outcomes"].append(late)
            continue
        try:
            result = await asyncio.wait_for(run(client, request["method"], request["params"]), seconds)
            line["outcomes"].append({"result": result})
        except Exception as error:
            line["outcomes"].append({"error": failure(error)})
            if isinstance(error, TimeoutError):
                # Who does not answer once is not waited for again.
                late = line["outcomes"][-1]
    try:
        await asyncio.wait_for(client.__aexit__(None, None, None), 2)
    except Exception:
        # How a conversation ends is not what is looked at.
        pass
    return line


async def main():
    logging.disable(logging.CRITICAL)
    with open(sys.argv[1], encoding="utf-8") as script:
        conversations = json.load(script)
    free = asyncio.Semaphore(AT_A_TIME)

    async def play(conversation):
        async with free:
            # In a task of its own: the SDK's cancellation scopes belong to tasks.
            try:
                line = await asyncio.wait_for(asyncio.create_task(converse(conversation)), 5 * conversation["seconds"])
            except BaseException as error:
                line = {"name": conversation["name"], "connect": failure(error), "outcomes": []}
            print(json.dumps(line), flush=True)

    await asyncio.gather(*(play(conversation) for conversation in conversations))


asyncio.run(main())
