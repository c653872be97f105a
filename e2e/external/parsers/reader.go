// Reads JSON-RPC messages, one a line in hexadecimal digits, as a server on encoding/json does: into structs, whose fields match keys
// without regard to case. Writes what it understood of each, one line of JSON.
package main

import (
	"bufio"
	"encoding/hex"
	"encoding/json"
	"os"
)

type reference struct {
	Name *string `json:"name"`
	URI  *string `json:"uri"`
}

type parameters struct {
	Name      *string    `json:"name"`
	URI       *string    `json:"uri"`
	Ref       *reference `json:"ref"`
	RequestID any        `json:"requestId"`
}

type message struct {
	ID     any         `json:"id"`
	Method *string     `json:"method"`
	Params *parameters `json:"params"`
}

type reading struct {
	Error  string  `json:"error,omitempty"`
	ID     any     `json:"id"`
	Method *string `json:"method"`
	Name   *string `json:"name"`
	URI    *string `json:"uri"`
}

func read(bytes []byte) reading {
	var m message
	if err := json.Unmarshal(bytes, &m); err != nil {
		return reading{Error: err.Error()}
	}
	r := reading{ID: m.ID, Method: m.Method}
	if p := m.Params; p != nil {
		r.Name, r.URI = p.Name, p.URI
		if ref := p.Ref; ref != nil {
			r.Name, r.URI = ref.Name, ref.URI
		}
	}
	return r
}

func main() {
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 64<<20)
	out := json.NewEncoder(os.Stdout)
	for lines.Scan() {
		bytes, err := hex.DecodeString(lines.Text())
		if err != nil {
			panic(err)
		}
		if err := out.Encode(read(bytes)); err != nil {
			panic(err)
		}
	}
	if err := lines.Err(); err != nil {
		panic(err)
	}
}
