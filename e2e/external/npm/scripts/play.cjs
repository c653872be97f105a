// A client on the TypeScript SDK that plays conversations, several at a time, however they go. Its arguments are the SDK's version, `v1` or
// `v2`, and a file with a list of {name, url, requests: [{method, params}], seconds}. For each it prints one line of JSON: {name, connect,
// outcomes}, where `connect` is what went wrong with the connection, and an outcome is {result} or {error: {code, message}} as the SDK gives it.
const fs = require("node:fs");

const SDKS = {
    v1: () => ({
        ...require("@modelcontextprotocol/sdk/client/index.js"),
        ...require("@modelcontextprotocol/sdk/client/streamableHttp.js"),
    }),
    v2: () => require("@modelcontextprotocol/client"),
};

// How many conversations go on at a time.
const AT_A_TIME = 16;

const [version, script] = process.argv.slice(2);
const { Client, StreamableHTTPClientTransport } = SDKS[version]();

const METHODS = {
    "tools/list": (client, params, options) => client.listTools(params, options),
    "tools/call": (client, params, options) =>
        version === "v1" ? client.callTool(params, undefined, options) : client.callTool(params, options),
    "prompts/list": (client, params, options) => client.listPrompts(params, options),
    "prompts/get": (client, params, options) => client.getPrompt(params, options),
    "resources/list": (client, params, options) => client.listResources(params, options),
    "resources/templates/list": (client, params, options) => client.listResourceTemplates(params, options),
    "resources/read": (client, params, options) => client.readResource(params, options),
    ping: (client, params, options) => client.ping(options),
};

// v1 gives one page, and v2 all of them when no cursor is given.
async function run(client, method, params, seconds) {
    const options = { timeout: 1000 * seconds };
    const all = await METHODS[method](client, params, options);
    let cursor = all.nextCursor;
    for (let pages = 0; cursor !== undefined && method.endsWith("/list") && pages < 20; pages += 1) {
        const page = await METHODS[method](client, { ...params, cursor }, options);
        for (const [key, value] of Object.entries(page)) {
            if (Array.isArray(value)) {
                all[key].push(...value);
            }
        }
        cursor = page.nextCursor;
    }
    delete all.nextCursor;
    return all;
}

function failure(error) {
    const cause = error?.cause === undefined ? "" : ` (${error.cause.message ?? error.cause})`;
    return { code: typeof error?.code === "number" ? error.code : null, message: `${error?.message ?? error}${cause}` };
}

const LATE = "no answer in time";

function within(seconds, promise) {
    let timer;
    const late = new Promise((_, reject) => {
        timer = setTimeout(() => reject(new Error(LATE)), 1000 * seconds);
    });
    return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

async function converse({ name, url, requests, seconds }) {
    const line = { name, connect: null, outcomes: [] };
    const client = new Client({ name: `typescript-${version}`, version: "1" }, { capabilities: {} });
    client.onerror = () => {};
    const transport = new StreamableHTTPClientTransport(new URL(url));
    try {
        await within(seconds, client.connect(transport, { timeout: 2000 * seconds }));
    } catch (error) {
        line.connect = failure(error);
    }
    let late;
    for (const { method, params } of line.connect === null ? requests : []) {
        if (late !== undefined) {
            line.outcomes.push(late);
            continue;
        }
        try {
            line.outcomes.push({ result: await within(seconds, run(client, method, params, 2 * seconds)) });
        } catch (error) {
            line.outcomes.push({ error: failure(error) });
            // Who does not answer once is not waited for again.
            late = error?.message === LATE ? line.outcomes.at(-1) : undefined;
        }
    }
    // How a conversation ends is not what is looked at.
    await within(0.3, transport.terminateSession()).catch(() => {});
    await within(0.3, client.close()).catch(() => {});
    return line;
}

async function main() {
    // The output is for the lines of the conversations.
    console.log = console.info = console.debug = console.warn = () => {};
    // What the SDK does in the background may fail, too.
    process.on("unhandledRejection", () => {});
    process.on("uncaughtException", () => {});
    const waiting = JSON.parse(fs.readFileSync(script, "utf8"));
    const work = async () => {
        for (let next = waiting.shift(); next !== undefined; next = waiting.shift()) {
            process.stdout.write(`${JSON.stringify(await converse(next))}\n`);
        }
    };
    await Promise.all(Array.from({ length: AT_A_TIME }, work));
    // Streams that the SDK still waits for would keep the process alive.
    process.stdout.write("", () => process.exit(0));
}

main();
