// A client on the TypeScript SDK whose session ends elsewhere. Its arguments are the SDK's version, `v1` or `v2`, and a URL. It opens a session
// and calls a tool, waits for a line on standard input, and calls it again: in the same session, and in a new one that it opens if the
// first has ended. Each step prints one line of JSON.
const readline = require("node:readline");

const SDKS = {
    v1: () => ({
        ...require("@modelcontextprotocol/sdk/client/index.js"),
        ...require("@modelcontextprotocol/sdk/client/streamableHttp.js"),
    }),
    v2: () => require("@modelcontextprotocol/client"),
};

const [version, url] = process.argv.slice(2);
const { Client, StreamableHTTPClientTransport } = SDKS[version]();

function say(line) {
    console.log(JSON.stringify(line));
}

async function open() {
    const client = new Client({ name: `typescript-${version}`, version: "1" }, { capabilities: {} });
    const transport = new StreamableHTTPClientTransport(new URL(url));
    // Told of the stream that ends with its session; the calls are told by themselves.
    client.onerror = () => {};
    await client.connect(transport);
    return { client, transport };
}

async function call({ client }) {
    try {
        const result = await client.callTool({ name: "fixture_echo", arguments: { message: "hi" } });
        return { failed: result.isError === true };
    } catch (error) {
        // v1 has the status in `code`, v2 in `status`.
        return { error: error.message, noticed: error.code === 404 || error.status === 404 };
    }
}

async function main() {
    const first = await open();
    say({ ...(await call(first)), session: first.transport.sessionId });
    await new Promise((resolve) => readline.createInterface({ input: process.stdin }).once("line", resolve));
    say(await call(first));
    const second = await open();
    say({ ...(await call(second)), session: second.transport.sessionId });
    process.exit(0);
}

main();
