"""Reads JSON-RPC messages, one a line in hexadecimal digits, and writes what it understood of each, one line of JSON.

The argument says how keys are found: `last` of two equal ones, as `json` does, `first`, or `folded`: without regard to case, `_` and `-`.
"""

import json
import sys

HOW = sys.argv[1]


def fold(key):
    return key.split("\0")[0].casefold().replace("_", "").replace("-", "")


class Object(dict):
    def __init__(self, pairs):
        super().__init__(reversed(pairs) if HOW == "first" else pairs)
        if HOW == "folded":
            self.folded = {fold(key): value for key, value in pairs}

    def find(self, key):
        return self.folded.get(fold(key)) if HOW == "folded" else self.get(key)


def text(value):
    """A text that a strict parser can read, also where this one has half of a surrogate pair."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value


def read(message):
    parsed = json.loads(message, object_pairs_hook=Object)
    if not isinstance(parsed, Object):
        raise ValueError("no object")
    reading = {"id": text(parsed.find("id")), "method": text(parsed.find("method"))}
    params = parsed.find("params")
    if isinstance(params, Object):
        ref = params.find("ref")
        named = ref if isinstance(ref, Object) else params
        reading |= {"name": text(named.find("name")), "uri": text(named.find("uri"))}
    return reading


for line in sys.stdin:
    try:
        reading = read(bytes.fromhex(line))
    except (ValueError, RecursionError) as error:
        reading = {"error": str(error)}
    print(json.dumps(reading))
