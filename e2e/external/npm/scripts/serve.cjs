// A server on the TypeScript SDK as its documentation makes one: with sessions, the tool echo, the prompt greet and the resource test://motto. Its
// argument is the SDK's version, `v1` or `v2`.
const { randomUUID } = require("node:crypto");
const http = require("node:http");
const { z } = require("zod");

const SDKS = {
    v1: () => ({
        ...require("@modelcontextprotocol/sdk/server/mcp.js"),
        ...require("@modelcontextprotocol/sdk/server/completable.js"),
        Transport: require("@modelcontextprotocol/sdk/server/streamableHttp.js").StreamableHTTPServerTransport,
    }),
    v2: () => ({
        ...require("@modelcontextprotocol/server"),
        Transport: require("@modelcontextprotocol/node").NodeStreamableHTTPServerTransport,
    }),
};

const version = process.argv[2];
const { McpServer, Transport, completable } = SDKS[version]();

function make() {
    const server = new McpServer({ name: `typescript-${version}`, version: "1" }, { capabilities: { logging: {} } });
    const schema = (shape) => (version === "v1" ? shape : z.object(shape));
    server.registerTool(
        "echo",
        { description: "Gives the message back", inputSchema: schema({ message: z.string() }) },
        async ({ message }) => ({ content: [{ type: "text", text: message }] }),
    );
    server.registerPrompt(
        "greet",
        { argsSchema: schema({ name: completable(z.string(), () => ["Ada"]) }) },
        ({ name }) => ({ messages: [{ role: "user", content: { type: "text", text: `Hello ${name}` } }] }),
    );
    server.registerResource("motto", "test://motto", { mimeType: "text/plain" }, async (uri) => ({
        contents: [{ uri: uri.href, mimeType: "text/plain", text: "motto" }],
    }));
    return server;
}

const sessions = new Map();

async function serve(request, response) {
    // With a slash at its end it is the same path for the routers that the documentation uses.
    if (!/^\/mcp\/?(\?|$)/.test(request.url)) {
        return response.writeHead(404).end();
    }
    const id = request.headers["mcp-session-id"];
    let transport = sessions.get(id);
    if (transport === undefined && id !== undefined) {
        return response.writeHead(404).end();
    }
    if (transport === undefined) {
        transport = new Transport({
            sessionIdGenerator: randomUUID,
            onsessioninitialized: (id) => sessions.set(id, transport),
            onsessionclosed: (id) => sessions.delete(id),
        });
        await make().connect(transport);
    }
    await transport.handleRequest(request, response);
}

http.createServer((request, response) => {
    serve(request, response).catch((error) => {
        console.error(error);
        response.destroy();
    });
}).listen(Number(process.env.PORT), "127.0.0.1");
