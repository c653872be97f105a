// Clients on SDKs for Go, and a server. The arguments are what to do and the URL of a server, a file or an address; each step prints one line of JSON.
//
//	lost URL    opens a session on the official SDK, calls a tool, waits for a line on standard input, and calls it twice more
//	call URL    opens a session on mcp-go 0.31, which waits for the type of each event, and calls a tool whose answer is a stream
//	play FILE   holds the conversations in the file, [{name, url, requests: [{method, params}]}], on the official SDK, however they go, and
//	            prints {name, connect, outcomes} for each, as e2e/external/python/play.py does
//	serve ADDRESS  runs a server with the tool echo on the official SDK
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	community "github.com/mark3labs/mcp-go/client"
	communitymcp "github.com/mark3labs/mcp-go/mcp"
	"github.com/modelcontextprotocol/go-sdk/mcp"
)

const tool = "fixture_echo"

var arguments = map[string]any{"message": "hi"}

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: sdk lost|call URL, sdk play FILE, or sdk serve ADDRESS")
		os.Exit(2)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	run := map[string]func(context.Context, string) error{"lost": lost, "call": call, "play": play, "serve": serve}[os.Args[1]]
	if run == nil {
		fmt.Fprintln(os.Stderr, "unknown command", os.Args[1])
		os.Exit(2)
	}
	if err := run(ctx, os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func lost(ctx context.Context, url string) error {
	client := mcp.NewClient(&mcp.Implementation{Name: "go-sdk", Version: "1"}, nil)
	session, err := client.Connect(ctx, &mcp.StreamableClientTransport{Endpoint: url}, nil)
	if err != nil {
		return err
	}
	attempt := func() map[string]any {
		result, err := session.CallTool(ctx, &mcp.CallToolParams{Name: tool, Arguments: arguments})
		if err != nil {
			return map[string]any{"error": err.Error(), "noticed": errors.Is(err, mcp.ErrSessionMissing)}
		}
		return map[string]any{"failed": result.IsError}
	}
	first := attempt()
	first["session"] = session.ID()
	say(first)
	if _, err := bufio.NewReader(os.Stdin).ReadString('\n'); err != nil {
		return err
	}
	say(attempt())
	// The session says by itself that it has ended.
	ended := make(chan error, 1)
	go func() { ended <- session.Wait() }()
	select {
	case err := <-ended:
		say(map[string]any{"ended": true, "noticed": errors.Is(err, mcp.ErrSessionMissing)})
	case <-time.After(10 * time.Second):
		say(map[string]any{"ended": false})
	}
	say(attempt())
	return nil
}

func call(ctx context.Context, url string) error {
	client, err := community.NewStreamableHttpClient(url)
	if err != nil {
		return err
	}
	defer client.Close()
	if err := client.Start(ctx); err != nil {
		return err
	}
	initialize := communitymcp.InitializeRequest{}
	initialize.Params.ProtocolVersion = communitymcp.LATEST_PROTOCOL_VERSION
	initialize.Params.ClientInfo = communitymcp.Implementation{Name: "mcp-go", Version: "0.31.0"}
	if _, err := client.Initialize(ctx, initialize); err != nil {
		return err
	}
	request := communitymcp.CallToolRequest{}
	request.Params.Name = tool
	request.Params.Arguments = arguments
	result, err := client.CallTool(ctx, request)
	if err != nil {
		return err
	}
	say(map[string]any{"result": result})
	return nil
}

func say(line map[string]any) {
	if err := json.NewEncoder(os.Stdout).Encode(line); err != nil {
		panic(err)
	}
}
