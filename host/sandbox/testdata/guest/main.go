// Command guest is what the sandbox's tests run: a provider whose model names
// say how it behaves, or misbehaves.
package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/sluicehq/sluice/sdk"
)

var (
	counter int
	keep    [][]byte
	sink    int
)

func init() {
	sdk.Register(sdk.Provider{
		Name: "guest", Version: "0.1.0", Models: []sdk.Model{{Name: "*"}},
		Generate: generate,
		Resume: func(_ context.Context, req *sdk.Request, emit sdk.Emit) error {
			return emit(sdk.Text("after " + req.Prefix))
		},
		CountTokens: func(_ context.Context, req *sdk.Request) (int, error) { return len(strings.Fields(req.Prompt())), nil },
		Check: func(_ context.Context, s sdk.Settings) error {
			if s.String("mood", "") == "bad" {
				return sdk.Errorf(sdk.Invalid, "mood is bad")
			}
			return nil
		},
	})
}

func main() { sdk.Main() }

func generate(ctx context.Context, req *sdk.Request, emit sdk.Emit) error {
	switch req.Model {
	case "echo":
		for _, word := range strings.SplitAfter(req.Prompt(), " ") {
			if err := emit(sdk.Text(word)); err != nil {
				return err
			}
		}
		if err := emit(sdk.Usage{Input: 1, Output: 2}); err != nil {
			return err
		}
		return emit(sdk.Finish{Reason: sdk.FinishStop})
	case "many": // as many chunks as the prompt says, of 20 bytes
		n, err := strconv.Atoi(req.Prompt())
		if err != nil {
			return err
		}
		for range n {
			if err := emit(sdk.Text("twenty bytes of text")); err != nil {
				return err
			}
		}
		return nil
	case "work": // what metering costs ordinary code
		n, err := strconv.Atoi(req.Prompt())
		if err != nil {
			return err
		}
		for range n {
			var v map[string]any
			if err := json.Unmarshal([]byte(`{"id":"chatcmpl-1","choices":[{"index":0,"delta":{"content":"hello"},"finish_reason":null}]}`), &v); err != nil {
				return err
			}
		}
		return nil
	case "usage":
		var u sdk.Usage
		if err := json.Unmarshal([]byte(req.Prompt()), &u); err != nil {
			return err
		}
		return emit(u)
	case "call":
		n, err := strconv.Atoi(req.Prompt())
		if err != nil {
			return err
		}
		return emit(sdk.ToolCall{Index: n, Name: "f"})
	case "garbage":
		return emit(sdk.Text("a\xffb"))
	case "state":
		counter++
		return emit(sdk.Text(fmt.Sprint(counter)))
	case "random":
		b := make([]byte, 16)
		if _, err := rand.Read(b); err != nil {
			return err
		}
		return emit(sdk.Text(hex.EncodeToString(b)))
	case "fail":
		return &sdk.Error{Kind: sdk.Limited, Fault: sdk.Upstream, Message: "slow down", Wait: 1500 * time.Millisecond, Status: 429, Code: "rate"}
	case "lines":
		return sdk.PostLines(ctx, sdk.HTTPRequest{URL: req.Prompt(), Header: sdk.Header{"Authorization": "Bearer ${secret:KEY}"}, Body: []byte("hello")},
			func(line []byte) error { return emit(sdk.Text(line)) })
	case "get":
		_, err := sdk.Do(ctx, sdk.HTTPRequest{URL: req.Prompt()})
		return err
	case "open":
		for {
			if _, err := sdk.Do(ctx, sdk.HTTPRequest{URL: req.Prompt()}); err != nil {
				return err
			}
		}
	case "print":
		fmt.Fprintln(os.Stderr, "to stderr")
		fmt.Println("to stdout")
		return nil
	case "env":
		return emit(sdk.Text(fmt.Sprint(len(os.Environ()), len(os.Args))))
	case "readfile":
		_, err := os.ReadFile("/etc/hostname")
		return emit(sdk.Text(fmt.Sprint(err != nil)))
	}
	return misbehave(req, emit)
}

func misbehave(req *sdk.Request, emit sdk.Emit) error {
	if err := emit(sdk.Text("start")); err != nil {
		return err
	}
	switch req.Model {
	case "sleep":
		time.Sleep(time.Hour)
	case "loop":
		for {
			sink++
		}
	case "recurse":
		sink = fib(64)
	case "deep":
		sink = deep(1)
	case "flood":
		for {
			if err := emit(sdk.Text(strings.Repeat("x", 1000))); err != nil {
				return err
			}
		}
	case "ignore":
		for {
			_ = emit(sdk.Text("x"))
		}
	case "panic":
		panic("boom")
	case "gopanic":
		go func() { panic("boom in a goroutine") }()
		time.Sleep(time.Minute)
	case "exit":
		os.Exit(7)
	case "bomb":
		for {
			b := make([]byte, 1<<20)
			for i := 0; i < len(b); i += 4096 {
				b[i] = 1
			}
			keep = append(keep, b)
		}
	case "print":
		for {
			fmt.Println(strings.Repeat("p", 4000))
		}
	case "deadlock":
		<-make(chan int)
	case "quit":
		return sdk.Errorf(sdk.Cancelled, "nobody cancelled this")
	}
	return nil
}

func fib(n int) int {
	if n < 2 {
		return n
	}
	return fib(n-1) + fib(n-2)
}

func deep(n int) int { return deep(n+1) + n }
