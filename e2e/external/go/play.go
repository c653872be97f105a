package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// How many conversations go on at a time, and how many pages of a list are asked for.
const (
	playAtATime  = 16
	playMaxPages = 20
)

type conversation struct {
	Name     string `json:"name"`
	URL      string `json:"url"`
	Requests []struct {
		Method string          `json:"method"`
		Params json.RawMessage `json:"params"`
	} `json:"requests"`
	Seconds int `json:"seconds"`
}

type failure struct {
	Code    *int64 `json:"code"`
	Message string `json:"message"`
}

type outcome struct {
	Result any      `json:"result,omitempty"`
	Error  *failure `json:"error,omitempty"`
}

type played struct {
	Name     string    `json:"name"`
	Connect  *failure  `json:"connect"`
	Outcomes []outcome `json:"outcomes"`
}

// play holds the conversations in the file, several at a time, and prints a line for each.
func play(_ context.Context, file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var conversations []conversation
	if err := json.Unmarshal(text, &conversations); err != nil {
		return err
	}
	var printing sync.Mutex
	var all sync.WaitGroup
	free := make(chan struct{}, playAtATime)
	for _, one := range conversations {
		all.Add(1)
		go func() {
			defer all.Done()
			free <- struct{}{}
			defer func() { <-free }()
			line, err := json.Marshal(converse(one))
			if err != nil {
				panic(err)
			}
			printing.Lock()
			defer printing.Unlock()
			fmt.Println(string(line))
		}()
	}
	all.Wait()
	return nil
}

func converse(of conversation) played {
	line := played{Name: of.Name, Outcomes: []outcome{}}
	limit := time.Duration(of.Seconds) * time.Second
	connected := make(chan *mcp.ClientSession, 1)
	failed := make(chan error, 1)
	client := mcp.NewClient(&mcp.Implementation{Name: "go-sdk", Version: "1"}, nil)
	// The connection's own context must outlive the attempt.
	go func() {
		session, err := client.Connect(context.Background(), &mcp.StreamableClientTransport{Endpoint: of.URL, MaxRetries: -1}, nil)
		if err != nil {
			failed <- err
		} else {
			connected <- session
		}
	}()
	var session *mcp.ClientSession
	select {
	case session = <-connected:
	case err := <-failed:
		line.Connect = why(err)
		return line
	case <-time.After(limit):
		line.Connect = why(errors.New("no answer in time"))
		return line
	}
	isLate := false
	for _, request := range of.Requests {
		if isLate {
			line.Outcomes = append(line.Outcomes, line.Outcomes[len(line.Outcomes)-1])
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		result, err := perform(ctx, session, request.Method, request.Params)
		// Who does not answer once is not waited for again.
		isLate = ctx.Err() != nil
		cancel()
		if err != nil {
			line.Outcomes = append(line.Outcomes, outcome{Error: why(err)})
		} else {
			line.Outcomes = append(line.Outcomes, outcome{Result: result})
		}
	}
	// How a conversation ends is not what is looked at.
	closed := make(chan struct{})
	go func() {
		_ = session.Close()
		close(closed)
	}()
	select {
	case <-closed:
	case <-time.After(2 * time.Second):
	}
	return line
}

func perform(ctx context.Context, session *mcp.ClientSession, method string, params json.RawMessage) (any, error) {
	switch method {
	case "tools/list":
		all, err := session.ListTools(ctx, &mcp.ListToolsParams{})
		if err != nil {
			return nil, err
		}
		next := all.NextCursor
		for pages := 0; next != "" && pages < playMaxPages; pages++ {
			page, err := session.ListTools(ctx, &mcp.ListToolsParams{Cursor: next})
			if err != nil {
				return nil, err
			}
			all.Tools = append(all.Tools, page.Tools...)
			next = page.NextCursor
		}
		all.NextCursor = ""
		return all, nil
	case "tools/call":
		var call mcp.CallToolParams
		if err := json.Unmarshal(params, &call); err != nil {
			return nil, err
		}
		return session.CallTool(ctx, &call)
	case "ping":
		return map[string]any{}, session.Ping(ctx, nil)
	}
	return nil, errors.New("unknown method " + method)
}

func why(err error) *failure {
	var answered *jsonrpc.Error
	if errors.As(err, &answered) {
		return &failure{Code: &answered.Code, Message: err.Error()}
	}
	return &failure{Message: err.Error()}
}
