"""A client on the Python SDK, of the era with sessions. Its arguments are two files. The first one holds a list of {url, roots,
requests: [{method, params}]}: it opens a session at each url in turn, and writes one line of JSON for each request to the second one: the
result or the error as the SDK gives it, what was reported on the way, and what it was asked. It answers whatever it is asked. Instead of a
url there may be a command, {command, args, env, cwd}: then it runs that server and speaks with it over its pipe."""

import asyncio
import json
import sys

from mcp import StdioServerParameters, types
from mcp.client import Client
from mcp.shared.exceptions import MCPError

LISTS = {
    "tools/list": ("list_tools", "tools"),
    "prompts/list": ("list_prompts", "prompts"),
    "resources/list": ("list_resources", "resources"),
    "resources/templates/list": ("list_resource_templates", "resource_templates"),
}


def plain(value):
    return value.model_dump(mode="json", by_alias=True, exclude_none=True)


async def everything(client, method):
    name, attribute = LISTS[method]
    items, cursor = [], None
    while True:
        page = await getattr(client, name)(cursor=cursor)
        items += [plain(item) for item in getattr(page, attribute)]
        cursor = page.next_cursor
        if cursor is None:
            return items


async def run(client, method, params, report):
    if method in LISTS:
        return await everything(client, method)
    if method == "tools/call":
        return plain(await client.call_tool(params["name"], params.get("arguments"), progress_callback=report))
    if method == "prompts/get":
        return plain(await client.get_prompt(params["name"], params.get("arguments")))
    if method == "resources/read":
        return plain(await client.read_resource(params["uri"]))
    of_prompt = params["ref"]["type"] == "ref/prompt"
    reference = types.PromptReference if of_prompt else types.ResourceTemplateReference
    context = params.get("context", {}).get("arguments")
    return plain(await client.complete(reference.model_validate(params["ref"]), params["argument"], context))


async def converse(conversation, answers):
    line = {}
    url, command = conversation.get("url"), conversation.get("command")
    root_uris = conversation.get("roots", ["file:///work"])

    def note(params, method):
        asked = plain(params)
        asked.pop("_meta", None)
        line["asked"].append({"method": method, "params": asked})

    # Servers ask for roots when they please, so that it belongs to no request.
    async def roots(context):
        return types.ListRootsResult(roots=[types.Root(uri=uri, name="work") for uri in root_uris])

    async def sample(context, params):
        note(params, "sampling/createMessage")
        content = types.TextContent(type="text", text="a sample")
        return types.CreateMessageResult(role="assistant", model="none", content=content, stop_reason="endTurn")

    async def elicit(context, params):
        note(params, "elicitation/create")
        return types.ElicitResult(action="accept", content={"name": "Ada"})

    async def report(progress, total, message):
        line["reported"].append({"progress": progress, "total": total, "message": message})

    client = Client(
        url if command is None else StdioServerParameters(**command),
        mode="legacy",
        list_roots_callback=roots,
        sampling_callback=sample,
        elicitation_callback=elicit,
    )
    async with client:
        for request in conversation["requests"]:
            line = {"reported": [], "asked": []}
            try:
                line["result"] = await run(client, request["method"], request["params"], report)
            except MCPError as error:
                line["error"] = {"code": error.error.code, "message": error.error.message}
            print(json.dumps(line), file=answers, flush=True)


async def main():
    script, answers = sys.argv[1:]
    with open(script, encoding="utf-8") as script, open(answers, "w", encoding="utf-8") as answers:
        for conversation in json.load(script):
            await converse(conversation, answers)


asyncio.run(main())
