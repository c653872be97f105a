// A client on the AI SDK. Its arguments are its major version, `1` or `2`, and a URL. It connects with the SDK's defaults, which in version 2
// means that it probes for the modern era first, calls a tool, and prints the result as one line of JSON.
const [version, url] = process.argv.slice(2);
const sdk = require(version === "1" ? "ai-sdk-mcp-1" : "@ai-sdk/mcp");
const create = sdk.createMCPClient ?? sdk.experimental_createMCPClient;

async function main() {
    const client = await create({ transport: { type: "http", url } });
    const tools = await client.tools();
    const result = await tools.fixture_echo.execute({ message: "hi" }, { toolCallId: "1", messages: [] });
    console.log(JSON.stringify(result));
    await client.close();
    process.exit(0);
}

main();
