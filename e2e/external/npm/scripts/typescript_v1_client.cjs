// A client on the TypeScript SDK v1. Its arguments are two files. The first one holds a list of {url, roots, requests: [{method, params}]}: it
// opens a session at each url in turn, and writes one line of JSON for each request to the second one: the result or the error as the SDK gives
// it, what was reported on the way, and what it was asked. It answers whatever it is asked. Instead of a url there may be a command, {command,
// args, env, cwd}: then it runs that server and speaks with it over its pipe.
const fs = require("node:fs");
const { Client } = require("@modelcontextprotocol/sdk/client/index.js");
const { StdioClientTransport } = require("@modelcontextprotocol/sdk/client/stdio.js");
const { StreamableHTTPClientTransport } = require("@modelcontextprotocol/sdk/client/streamableHttp.js");
const types = require("@modelcontextprotocol/sdk/types.js");

const LISTS = {
    "tools/list": ["listTools", "tools"],
    "prompts/list": ["listPrompts", "prompts"],
    "resources/list": ["listResources", "resources"],
    "resources/templates/list": ["listResourceTemplates", "resourceTemplates"],
};

async function all(client, method) {
    const [list, key] = LISTS[method];
    const items = [];
    let cursor;
    do {
        const page = await client[list](cursor === undefined ? {} : { cursor });
        items.push(...page[key]);
        cursor = page.nextCursor;
    } while (cursor !== undefined);
    return items;
}

function run(client, method, params, options) {
    switch (method) {
        case "tools/call":
            return client.callTool(params, undefined, options);
        case "prompts/get":
            return client.getPrompt(params, options);
        case "resources/read":
            return client.readResource(params, options);
        case "completion/complete":
            return client.complete(params, options);
        default:
            return all(client, method);
    }
}

async function converse({ url, command, roots = ["file:///work"], requests }) {
    const client = new Client(
        { name: "typescript-v1", version: "1" },
        { capabilities: { roots: {}, sampling: {}, elicitation: { form: {}, url: {} } } },
    );
    let line;
    const answer = (schema, result) =>
        client.setRequestHandler(schema, async ({ method, params }) => {
            const { _meta, ...asked } = params ?? {};
            line.asked.push({ method, params: asked });
            return result;
        });
    // Servers ask for roots when they please, so that it belongs to no request.
    client.setRequestHandler(types.ListRootsRequestSchema, async () => ({
        roots: roots.map((uri) => ({ uri, name: "work" })),
    }));
    answer(types.CreateMessageRequestSchema, {
        model: "none",
        role: "assistant",
        stopReason: "endTurn",
        content: { type: "text", text: "a sample" },
    });
    answer(types.ElicitRequestSchema, { action: "accept", content: { name: "Ada" } });
    const transport =
        command === undefined
            ? new StreamableHTTPClientTransport(new URL(url))
            : new StdioClientTransport({ ...command, stderr: "ignore" });
    await client.connect(transport);
    for (const { method, params } of requests) {
        line = { reported: [], asked: [] };
        const onprogress = (progress) => line.reported.push(progress);
        try {
            line.result = await run(client, method, params, { onprogress });
        } catch (error) {
            line.error = { code: error.code, message: error.message };
        }
        fs.appendFileSync(process.argv[3], `${JSON.stringify(line)}\n`);
    }
    await transport.terminateSession?.();
    await client.close();
}

async function main() {
    for (const conversation of JSON.parse(fs.readFileSync(process.argv[2], "utf8"))) {
        await converse(conversation);
    }
}

main();
