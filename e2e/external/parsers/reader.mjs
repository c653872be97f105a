// Reads JSON-RPC messages, one a line in hexadecimal digits, with JSON.parse, and writes what it understood of each, one line of JSON.
import { createInterface } from "node:readline";

// A text that a strict parser can read, also where this one has half of a surrogate pair.
const text = (value) => (typeof value === "string" ? value.toWellFormed() : value);

function read(bytes) {
  const message = JSON.parse(bytes.toString("utf8"));
  if (message === null || typeof message !== "object" || Array.isArray(message)) {
    throw new Error("no object");
  }
  const { id, method, params } = message;
  const named = params?.ref ?? params;
  return { id: text(id), method: text(method), name: text(named?.name), uri: text(named?.uri) };
}

for await (const line of createInterface({ input: process.stdin })) {
  let reading;
  try {
    reading = read(Buffer.from(line, "hex"));
  } catch (error) {
    reading = { error: String(error) };
  }
  console.log(JSON.stringify(reading));
}
