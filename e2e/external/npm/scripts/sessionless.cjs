// A server on the TypeScript SDK v2, as its documentation makes one: both eras, the legacy one without sessions.
const http = require("node:http");
const { McpServer, ResourceTemplate, completable, createMcpHandler } = require("@modelcontextprotocol/server");
const { toNodeHandler } = require("@modelcontextprotocol/node");
const { z } = require("zod");

function make() {
    const server = new McpServer(
        { name: "sessionless", version: "1.0.0" },
        { instructions: "Nothing is remembered between two requests." },
    );
    server.registerTool(
        "add",
        {
            title: "Add",
            description: "Adds two numbers",
            inputSchema: z.object({ a: z.number(), b: z.number().describe("The second one") }),
            outputSchema: z.object({ sum: z.number() }),
            annotations: { readOnlyHint: true },
        },
        async ({ a, b }) => ({
            content: [{ type: "text", text: String(a + b) }],
            structuredContent: { sum: a + b },
        }),
    );
    server.registerTool(
        "count",
        { description: "Reports progress up to a number", inputSchema: z.object({ to: z.int() }) },
        async ({ to }, context) => {
            const progressToken = context.mcpReq._meta?.progressToken;
            for (let progress = 1; progress <= to && progressToken !== undefined; progress += 1) {
                await context.mcpReq.notify({
                    method: "notifications/progress",
                    params: { progressToken, progress, total: to },
                });
            }
            return { content: [{ type: "text", text: `counted to ${to}` }] };
        },
    );
    server.registerTool("fail", { description: "Fails" }, async () => {
        throw new Error("as it was told to");
    });
    server.registerResource(
        "motto",
        "sessionless://motto",
        { description: "A text", mimeType: "text/plain" },
        async (uri) => ({ contents: [{ uri: uri.href, mimeType: "text/plain", text: "Nothing is remembered" }] }),
    );
    server.registerResource(
        "square",
        new ResourceTemplate("sessionless://square/{number}", { list: undefined }),
        { description: "The square of a number" },
        async (uri, { number }) => ({ contents: [{ uri: uri.href, text: String(Number(number) ** 2) }] }),
    );
    server.registerPrompt(
        "greet",
        {
            description: "Greets somebody",
            argsSchema: z.object({
                name: completable(z.string(), (value) => ["Ada", "Alan", "Grace"].filter((name) => name.startsWith(value))),
            }),
        },
        ({ name }) => ({ messages: [{ role: "user", content: { type: "text", text: `Say hello to ${name}` } }] }),
    );
    return server;
}

const serve = toNodeHandler(createMcpHandler(make));
http.createServer((request, response) => serve(request, response)).listen(Number(process.env.PORT), "127.0.0.1");
