package main

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/sluicehq/sluice/host/egress"
	"github.com/sluicehq/sluice/host/manifest"
	"github.com/sluicehq/sluice/sdk"
)

const eventPeriod = 2 * time.Millisecond

// latency measures the way of one event from the moment the upstream writes it
// to the moment the host has its text: an upstream that speaks the dialect, the
// host's door, the plugin, the boundary.
func (b *bench) latency(ctx context.Context) error {
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		rc := http.NewResponseController(w)
		tick := time.NewTicker(eventPeriod)
		defer tick.Stop()
		for range b.events {
			<-tick.C
			fmt.Fprintf(w, `data: {"id":"c","object":"chat.completion.chunk","created":1700000000,"model":"gpt-x","choices":[{"index":0,"delta":{"content":" %d"},"logprobs":null,"finish_reason":null}]}`+"\n\n", time.Now().UnixNano())
			if rc.Flush() != nil {
				return
			}
		}
		fmt.Fprint(w, `data: {"id":"c","object":"chat.completion.chunk","model":"gpt-x","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}`+"\n\ndata: [DONE]\n\n")
	}))
	defer upstream.Close()
	op := manifest.Operator{Settings: map[string]any{"base_url": upstream.URL}, AllowPrivate: []string{strings.TrimPrefix(upstream.URL, "http://")}}

	m, err := b.built(ctx, "openai-sandbox")
	if err != nil {
		return err
	}
	if m, err = m.Narrow(op); err != nil {
		return err
	}
	gate, err := egress.New(m, egress.Options{Log: b.log})
	if err != nil {
		return err
	}
	defer gate.Close()
	guest, err := b.start(ctx, "openai-sandbox", op)
	if err != nil {
		return err
	}
	defer guest.close()
	process, err := b.start(ctx, "openai-native", op)
	if err != nil {
		return err
	}
	defer process.close()
	ways := []struct {
		name     string
		target   target
		generate func(context.Context, *sdk.Request, sdk.Emit) error
		delays   []time.Duration
	}{
		{name: "in-process, the door alone", generate: func(ctx context.Context, _ *sdk.Request, emit sdk.Emit) error {
			return throughDoor(ctx, gate, upstream.URL, emit)
		}},
		{name: "sandbox, plugin openai", target: target{100 * time.Microsecond, "100 µs"}, generate: guest.Generate},
		{name: "native, plugin openai", target: target{400 * time.Microsecond, "400 µs"}, generate: process.Generate},
	}
	for range b.rounds {
		for i := range ways {
			w := &ways[i]
			n := 0
			err := w.generate(ctx, ask("gpt-x", "hello"), func(c sdk.Chunk) error {
				text, ok := c.(sdk.Text)
				if !ok {
					return nil
				}
				for sent := range strings.FieldsSeq(string(text)) { // several may have been merged
					at, err := strconv.ParseInt(sent, 10, 64)
					if err != nil {
						return err
					}
					w.delays = append(w.delays, time.Duration(time.Now().UnixNano()-at))
					n++
				}
				return nil
			})
			if err == nil && n != b.events {
				err = fmt.Errorf("%d events of %d", n, b.events)
			}
			if err != nil {
				return fmt.Errorf("%s: %w", w.name, err)
			}
		}
	}
	t := tabwriter.NewWriter(b.out, 0, 0, 2, ' ', 0)
	defer t.Flush()
	fmt.Fprintf(t, "one event from upstream to sink, every %v\tp50\tp99\tp50 added\ttarget of p50\t\n", eventPeriod)
	for i, w := range ways {
		slices.Sort(w.delays)
		slices.Sort(ways[0].delays)
		half := func(d []time.Duration) time.Duration { return d[len(d)/2] }
		added := ""
		if i > 0 {
			added = (half(w.delays) - half(ways[0].delays)).Round(time.Microsecond).String()
		}
		fmt.Fprintf(t, "%s\t%v\t%v\t%s\t%s\t\n", w.name, half(w.delays).Round(time.Microsecond), w.delays[len(w.delays)*99/100].Round(time.Microsecond), added, w.target.judge(half(w.delays)))
	}
	return nil
}

// throughDoor is the least a provider could do.
func throughDoor(ctx context.Context, gate *egress.Gate, url string, emit sdk.Emit) error {
	resp, err := gate.Do(ctx, &egress.Request{Method: "GET", URL: url})
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return sdk.ReadSSE(resp.Body, func(ev sdk.Event) error {
		_, rest, _ := strings.Cut(string(ev.Data), `"content":"`)
		text, _, ok := strings.Cut(rest, `"`)
		if !ok {
			return nil
		}
		return emit(sdk.Text(text))
	})
}
