// Package workshop is what a person does with a plugin by hand, without Redis: have a look at what
// is installed, verify it, ask it something, run the conformance table against it, begin a new one.
// It is behind the word plugin of the command line.
package workshop

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/sluicehq/sluice/config"
	"github.com/sluicehq/sluice/host"
	"github.com/sluicehq/sluice/host/native/box"
	"github.com/sluicehq/sluice/sdk"
	"github.com/sluicehq/sluice/sdk/sdktest"
)

// Bench is where the work is done. All fields are required.
type Bench struct {
	Plugins config.Plugins
	Log     *slog.Logger
	Out     io.Writer // what was asked for
	Err     io.Writer // what is said besides
}

// ErrFailed is the end of a verification or test that found something. What it was has been
// written to Out.
var ErrFailed = errors.New("the plugin did not pass")

// List tells how the installed plugins stand: each is started for it, as a host would.
func (b *Bench) List(ctx context.Context, asJSON bool) error {
	infos, err := host.Inspect(ctx, b.Plugins, slog.New(slog.DiscardHandler)) // what it says is in the reasons
	if err != nil {
		return err
	}
	if asJSON {
		enc := json.NewEncoder(b.Out)
		enc.SetIndent("", "  ")
		return enc.Encode(append([]host.PluginInfo{}, infos...))
	}
	if len(infos) == 0 {
		_, err := fmt.Fprintln(b.Out, "No plugin is installed in", strings.Join(b.Plugins.Dirs, ", "))
		return err
	}
	w := tabwriter.NewWriter(b.Out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tVERSION\tRUNTIME\tDIGEST\tSTATE\tGUARANTEES\tMODELS\tLIMITS")
	for _, i := range infos {
		fmt.Fprintln(w, strings.Join([]string{
			i.Name, dash(i.Version), dash(i.Runtime), dash(i.Digest[:min(len(i.Digest), 12)]), i.State,
			dash(strings.Join(i.Guarantees, ",")), dash(brief(i.Models)), dash(limits(i)),
		}, "\t"))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, i := range infos {
		if i.Reason != "" {
			fmt.Fprintf(b.Out, "\n%s is %s: %s\n", i.Name, i.State, i.Reason)
		}
		if missing := lacks(i); i.State == host.PluginUp && len(missing) > 0 {
			fmt.Fprintf(b.Out, "\n%s: this machine can't guarantee %s; its box has %s\n", i.Name, strings.Join(missing, ", "), i.Box)
		}
	}
	return nil
}

func lacks(i host.PluginInfo) []string {
	return slices.DeleteFunc(box.Guarantees(), func(g string) bool { return slices.Contains(i.Guarantees, g) })
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func brief(list []string) string {
	const shown = 3
	if len(list) > shown {
		return fmt.Sprintf("%s and %d more", strings.Join(list[:shown], ","), len(list)-shown)
	}
	return strings.Join(list, ",")
}

// limits is the short form; JSON has them all.
func limits(i host.PluginInfo) string {
	var parts []string
	for _, l := range i.Limits {
		switch l.Name {
		case "memory", "concurrency", "total", "cpu", "processes":
			parts = append(parts, l.Name+" "+l.Value)
		}
	}
	return strings.Join(parts, ", ")
}

// Verify checks one plugin's folder: the manifest, the digest, that it starts, describes itself
// and can use its settings.
func (b *Bench) Verify(ctx context.Context, dir string) error {
	err := host.Try(ctx, b.Plugins, dir, b.Log, func(i host.PluginInfo, p sdk.Provider) error {
		w := tabwriter.NewWriter(b.Out, 0, 0, 2, ' ', 0)
		row := func(name, format string, args ...any) { fmt.Fprintf(w, "%s\t%s\n", name, fmt.Sprintf(format, args...)) }
		row("manifest", "%s %s, %s, in %s", i.Name, i.Version, i.Runtime, i.Dir)
		row("digest", "%s", i.Digest)
		row("start", "%v", i.Started.Round(time.Millisecond))
		row("describes itself", "%s %s, built with %s", dash(i.Says.Name), dash(i.Says.Version), dash(i.Says.SDK))
		row("abilities", "%s", dash(strings.Join(abilities(p), ", ")))
		row("models", "%s", strings.Join(i.Models, ", "))
		row("box", "%s", i.Box)
		row("guarantees", "%s", dash(strings.Join(i.Guarantees, ", ")))
		for _, l := range i.Limits {
			text := l.Value
			if l.Check != "" {
				text += " (" + l.Check + ")"
			}
			row("limit "+l.Name, "%s", text)
		}
		if p.Check != nil {
			row("settings", "can be used")
		}
		return w.Flush()
	})
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(b.Out, "The plugin can be used.")
	return err
}

func abilities(p sdk.Provider) (list []string) {
	for name, has := range map[string]bool{
		"check": p.Check != nil, "count tokens": p.CountTokens != nil, "list models": p.ListModels != nil, "resume": p.Resume != nil,
	} {
		if has {
			list = append(list, name)
		}
	}
	slices.Sort(list)
	return list
}

// Question is what a plugin is asked by hand.
type Question struct {
	Model   string // "": the plugin's first
	System  string
	Prompt  string
	Options map[string]json.RawMessage
}

func (q Question) request(i host.PluginInfo) (*sdk.Request, error) {
	model := q.Model
	if model == "" {
		model = i.Models[0]
		if strings.Contains(model, "*") {
			return nil, fmt.Errorf("plugin %s serves %s: say which with --model", i.Name, strings.Join(i.Models, ", "))
		}
	}
	req := &sdk.Request{JobID: "by-hand", Attempt: 1, Model: model, Options: q.Options}
	if q.System != "" {
		req.Messages = append(req.Messages, sdk.Message{Role: sdk.RoleSystem, Parts: []sdk.Part{sdk.TextPart(q.System)}})
	}
	req.Messages = append(req.Messages, sdk.Message{Role: sdk.RoleUser, Parts: []sdk.Part{sdk.TextPart(q.Prompt)}})
	return req, nil
}

// Ask asks the plugin in a folder one thing. The text of the answer goes to Out as it comes, all
// other chunks to Err, one on a line.
func (b *Bench) Ask(ctx context.Context, dir string, q Question) error {
	return host.Try(ctx, b.Plugins, dir, b.Log, func(i host.PluginInfo, p sdk.Provider) error {
		req, err := q.request(i)
		if err != nil {
			return err
		}
		if _, ok := p.Model(req.Model); !ok {
			return fmt.Errorf("plugin %s doesn't serve %q; it serves %s", i.Name, req.Model, strings.Join(i.Models, ", "))
		}
		began := time.Now()
		var first time.Duration
		chunks, midLine, apart := 0, false, false
		err = p.Generate(ctx, req, func(c sdk.Chunk) error {
			if chunks++; chunks == 1 {
				first = time.Since(began)
			}
			if t, ok := c.(sdk.Text); ok {
				midLine, apart = t != "" && !strings.HasSuffix(string(t), "\n"), false
				_, err := io.WriteString(b.Out, string(t))
				return err
			}
			if midLine && !apart { // on a terminal they are one
				fmt.Fprintln(b.Err)
				apart = true
			}
			_, err := fmt.Fprintf(b.Err, "[%s %+v]\n", strings.ToLower(strings.TrimPrefix(fmt.Sprintf("%T", c), "sdk.")), c)
			return err
		})
		if midLine {
			fmt.Fprintln(b.Out)
		}
		if e := sdk.AsError(err); e != nil {
			return fmt.Errorf("%s after %d chunks: %s (fault: %s)", e.Kind, chunks, e.Message, e.Fault)
		}
		fmt.Fprintf(b.Err, "[%d chunks, the first after %v, all after %v]\n", chunks, first.Round(time.Millisecond/10), time.Since(began).Round(time.Millisecond/10))
		return nil
	})
}

// Table says which conformance table a plugin is tested with.
type Table struct {
	Echo bool // the one of the bundled plugin echo
	// For any other: a request that is answered, and one whose answer takes long; "" leaves out the
	// cancellation of an answer under way.
	Question
	Long string
}

// Test runs the conformance table against the plugin in a folder.
func (b *Bench) Test(ctx context.Context, dir string, t Table) error {
	return host.Try(ctx, b.Plugins, dir, b.Log, func(i host.PluginInfo, p sdk.Provider) error {
		req, err := t.request(i)
		if err != nil {
			return err
		}
		o := sdktest.Options{Plain: sdktest.Case{Request: req}, Varies: true}
		if t.Long != "" {
			long := t.Question
			long.Prompt = t.Long
			if o.Long, err = long.request(i); err != nil {
				return err
			}
		}
		if t.Echo {
			o = sdktest.Echo(req.Model)
		}
		o.KeepsGoroutines = true // those of the runtime come and go
		failed, skipped := 0, 0
		results := sdktest.Check(ctx, p, o)
		for _, r := range results {
			if r.Skipped != "" {
				skipped++
				fmt.Fprintf(b.Out, "skip %s: %s\n", r.Name, r.Skipped)
				continue
			}
			word := "ok  "
			if len(r.Problems) > 0 {
				word, failed = "FAIL", failed+1
			}
			fmt.Fprintf(b.Out, "%s %s (%v)\n", word, r.Name, r.Took.Round(time.Millisecond))
			for _, problem := range r.Problems {
				fmt.Fprintf(b.Out, "     %s\n", problem)
			}
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		fmt.Fprintf(b.Out, "%s %s (%s): %d of %d checks passed\n", i.Name, i.Version, i.Runtime, len(results)-skipped-failed, len(results)-skipped)
		if failed > 0 {
			return ErrFailed
		}
		return nil
	})
}
