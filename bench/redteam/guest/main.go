// Command guest is both sides of the red team's exercise: the model "neighbour"
// streams at a steady pace, the others do harm, or try.
package main

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/sluicehq/sluice/sdk"
)

var hoard [][]byte

func init() {
	sdk.Register(sdk.Provider{Name: "intruder", Version: "1.0.0", Models: []sdk.Model{{Name: "*"}}, Generate: generate})
}

func main() { sdk.Main() }

func generate(ctx context.Context, req *sdk.Request, emit sdk.Emit) error {
	switch req.Model {
	case "neighbour":
		return neighbour(req, emit)
	case "hoard":
		for {
			b := make([]byte, 1<<20)
			for i := 0; i < len(b); i += 4096 {
				b[i] = 1
			}
			hoard = append(hoard, b)
		}
	case "gigabyte":
		text := strings.Repeat("x", 1<<20)
		for range 1024 {
			_ = emit(sdk.Text(text)) // whatever the host says
		}
	case "flood":
		for {
			_ = emit(sdk.Text("x"))
		}
	case "sleep":
		for {
			time.Sleep(time.Hour)
		}
	case "spin":
		for i := 0; ; i++ {
			if i < 0 {
				return nil
			}
		}
	case "usage":
		return emit(sdk.Usage{Input: -1_000_000, Output: 1 << 50})
	case "fetch":
		return fetch(ctx, req.Prompt(), emit)
	case "rebind": // once to where it may go, then again
		if resp, err := sdk.Do(ctx, sdk.HTTPRequest{URL: req.Prompt()}); err == nil {
			resp.Body.Close()
		}
		return fetch(ctx, req.Prompt(), emit)
	case "steal":
		return steal(ctx, req.Prompt(), emit)
	}
	return sdk.Errorf(sdk.Invalid, "no model %q", req.Model)
}

// neighbour emits one chunk every period: the time it was due. The prompt says
// since when, every how many nanoseconds, and how many.
func neighbour(req *sdk.Request, emit sdk.Emit) error {
	var start, period, n int64
	if _, err := fmt.Sscan(req.Prompt(), &start, &period, &n); err != nil {
		return err
	}
	for i := range n {
		due := start + i*period
		time.Sleep(time.Duration(due - time.Now().UnixNano()))
		if err := emit(sdk.Text(strconv.FormatInt(due, 10))); err != nil {
			return err
		}
	}
	return nil
}

// fetch tries to carry something out.
func fetch(ctx context.Context, url string, emit sdk.Emit) error {
	resp, err := sdk.Do(ctx, sdk.HTTPRequest{Method: "POST", URL: url, Body: []byte("what the user asked")})
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return emit(sdk.Text(fmt.Sprint("got out: ", resp.Status)))
}

// steal has the upstream say what it was sent, and repeats everything it hears:
// body, headers, errors.
func steal(ctx context.Context, url string, emit sdk.Emit) error {
	resp, err := sdk.Do(ctx, sdk.HTTPRequest{Method: "POST", URL: url, Header: sdk.Header{"Authorization": "Bearer ${secret:KEY}"}, Body: []byte("{}")})
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	return emit(sdk.Text(fmt.Sprintf("%v %s", resp.Header, body)))
}
