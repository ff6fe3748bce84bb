package manifest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"net/textproto"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// Problem is something wrong in a manifest or in what the operator says about
// a plugin: where, what, and what to do about it.
type Problem struct {
	File    string // empty where there is none
	Line    int    // 0 where it isn't known
	Field   string // dotted path: limits.memory, models.0.name
	Value   string // as written, empty where it says nothing
	Message string
	Remedy  string

	path []string
}

func (p *Problem) Error() string {
	var b strings.Builder
	if p.File != "" {
		b.WriteString(p.File)
		if p.Line > 0 {
			fmt.Fprintf(&b, ":%d", p.Line)
		}
		b.WriteString(": ")
	} else if p.Line > 0 {
		fmt.Fprintf(&b, "line %d: ", p.Line)
	}
	if p.Field != "" {
		b.WriteString(p.Field + " ")
	}
	if p.Value != "" {
		fmt.Fprintf(&b, "%q ", p.Value)
	}
	b.WriteString(p.Message)
	if p.Remedy != "" {
		b.WriteString("; " + p.Remedy)
	}
	return b.String()
}

// Parse checks the text of a manifest. A digest may be missing, as it is in a
// manifest that lies beside its source.
func Parse(b []byte) (*Manifest, error) { return parse("", b) }

type wireModel struct {
	Name                                     string
	Tools, Vision, JSON, Reasoning, Continue bool
	ContextTokens                            int `yaml:"context_tokens"`
	OutputTokens                             int `yaml:"output_tokens"`
}

type wire struct {
	Name, Version, Description string
	Protocol                   int
	Runtime                    Runtime
	Artifact, Script           string
	SHA256                     string `yaml:"sha256"`
	Env, Files                 []string
	Models                     []wireModel
	FurtherModels              *wireModel `yaml:"further_models"`
	Egress                     []string
	Secrets                    []struct {
		Name, From, Header string
		Origins            []string
		Optional           bool
	}
	Settings map[string]any
	Limits   struct {
		Memory, CPU, Idle, Total, Output string
		Concurrency, Processes           int
		FirstToken                       string `yaml:"first_token"`
		OpenRequests                     int    `yaml:"open_requests"`
		RequestBody                      string `yaml:"request_body"`
		ResponseBody                     string `yaml:"response_body"`
	}
}

func parse(file string, b []byte) (*Manifest, error) {
	node, err := parseYAML(b)
	if err != nil {
		return nil, &Problem{File: file, Message: strings.TrimPrefix(err.Error(), "yaml: "), Remedy: "correct the YAML"}
	}
	fail := func(p *Problem) error {
		p.File = file
		p.Line = lineOf(node, p.path)
		return p
	}
	doc, prob := toJSON(node, nil)
	if prob != nil {
		return nil, fail(prob)
	}
	if prob := ownSchema().check(doc); prob != nil {
		return nil, fail(prob)
	}
	var w wire
	if err := node.Decode(&w); err != nil {
		return nil, &Problem{File: file, Message: err.Error(), Remedy: "correct the YAML"}
	}
	m := &Manifest{
		Name: w.Name, Version: w.Version, Description: w.Description, Protocol: w.Protocol, Runtime: w.Runtime,
		Artifact: w.Artifact, Script: w.Script, SHA256: w.SHA256, Env: w.Env, Files: w.Files, egress: w.Egress, bound: map[string][]string{},
	}
	if m.Script != "" && m.Runtime != Wasm {
		return nil, fail(&Problem{path: []string{"script"}, Field: "script", Value: m.Script, Message: "can't be run by runtime " + string(m.Runtime), Remedy: "use runtime: wasm"})
	}
	for _, wm := range w.Models {
		m.Models = append(m.Models, Model(wm))
	}
	m.Further = (*Model)(w.FurtherModels)
	for i, s := range w.Secrets {
		at := []string{"secrets", strconv.Itoa(i)}
		if _, dup := m.bound[s.Name]; dup {
			return nil, fail(&Problem{path: at, Field: strings.Join(at, ".") + ".name", Value: s.Name, Message: "is named twice", Remedy: "name each secret once, with all its origins"})
		}
		if s.From == "" {
			s.From = "env:" + s.Name
		}
		m.bound[s.Name] = s.Origins
		m.Secrets = append(m.Secrets, Secret{Name: s.Name, From: s.From, Header: textproto.CanonicalMIMEHeaderKey(s.Header), Optional: s.Optional})
	}
	if prob := m.parseLimits(&w); prob != nil {
		return nil, fail(prob)
	}
	if w.Settings == nil {
		w.Settings = map[string]any{"type": "object", "additionalProperties": false}
	}
	if t, ok := w.Settings["type"]; ok && t != "object" {
		return nil, fail(&Problem{path: []string{"settings", "type"}, Field: "settings.type", Value: show(t), Message: "is not object", Remedy: "settings are always an object"})
	}
	settings := any(w.Settings)
	if d, ok := doc.(map[string]any)["settings"]; ok {
		settings = d
	}
	if m.Settings, err = compileSchema(settings); err != nil {
		return nil, fail(&Problem{path: []string{"settings"}, Field: "settings", Message: err.Error(), Remedy: "write a JSON schema (draft 2020-12)"})
	}
	if err := m.resolve(m.Settings.defaults()); err != nil {
		var p *Problem
		if errors.As(err, &p) {
			p.path = strings.Split(p.Field, ".")
			return nil, fail(p)
		}
		return nil, err
	}
	m.Config = []byte("{}")
	return m, nil
}

func (m *Manifest) parseLimits(w *wire) *Problem {
	def := Defaults()
	var prob *Problem
	bad := func(key, s, remedy string) {
		if prob == nil {
			prob = &Problem{path: []string{"limits", key}, Field: "limits." + key, Value: s, Message: "is out of range", Remedy: remedy}
		}
	}
	size := func(key, s string, def int64) int64 {
		if s == "" {
			return def
		}
		v, ok := parseSize(s)
		if !ok || v > 4<<30 {
			bad(key, s, "use a size from 1B to 4GiB")
		}
		return v
	}
	dur := func(key, s string, def time.Duration) time.Duration {
		if s == "" {
			return def
		}
		d, err := time.ParseDuration(s)
		if err != nil || d < time.Millisecond || d > 24*time.Hour {
			bad(key, s, "use a duration from 1ms to 24h")
		}
		return d
	}
	num := func(v, def int) int {
		if v == 0 {
			return def
		}
		return v
	}
	l := w.Limits
	m.Limits = Limits{
		Memory: size("memory", l.Memory, def.Memory), Concurrency: num(l.Concurrency, def.Concurrency), Processes: num(l.Processes, def.Processes), CPU: dur("cpu", l.CPU, def.CPU),
		FirstToken: dur("first_token", l.FirstToken, def.FirstToken), Idle: dur("idle", l.Idle, def.Idle), Total: dur("total", l.Total, def.Total),
		Output: size("output", l.Output, def.Output), OpenRequests: num(l.OpenRequests, def.OpenRequests),
		RequestBody: size("request_body", l.RequestBody, def.RequestBody), ResponseBody: size("response_body", l.ResponseBody, def.ResponseBody),
	}
	if prob == nil && m.Runtime == Wasm && m.Limits.Memory < 64<<10 {
		bad("memory", l.Memory, "a guest needs at least 64KiB, a Go guest 16MiB")
	}
	return prob
}

func parseYAML(b []byte) (*yaml.Node, error) {
	dec := yaml.NewDecoder(bytes.NewReader(b))
	var doc yaml.Node
	if err := dec.Decode(&doc); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, errors.New("is empty")
		}
		return nil, err
	}
	var more yaml.Node
	if err := dec.Decode(&more); !errors.Is(err, io.EOF) {
		return nil, errors.New("holds more than one document")
	}
	return doc.Content[0], nil
}

// toJSON turns YAML into JSON's types. Anchors and aliases are refused: they
// are how a small file becomes a large one.
func toJSON(n *yaml.Node, at []string) (any, *Problem) {
	bad := func(msg, remedy string) *Problem {
		return &Problem{path: at, Field: strings.Join(at, "."), Value: show(n.Value), Message: msg, Remedy: remedy}
	}
	if len(at) > 64 {
		return nil, bad("is nested too deeply", "flatten it")
	}
	if n.Anchor != "" || n.Kind == yaml.AliasNode {
		return nil, bad("uses an anchor or alias", "write the value out")
	}
	switch n.Kind {
	case yaml.MappingNode:
		out := map[string]any{}
		for i := 0; i+1 < len(n.Content); i += 2 {
			k := n.Content[i]
			if k.Kind != yaml.ScalarNode || k.Tag == "!!merge" || k.Anchor != "" {
				return nil, bad("has a key that is not plain text", "use plain keys")
			}
			sub := append(at[:len(at):len(at)], k.Value)
			if _, dup := out[k.Value]; dup {
				return nil, &Problem{path: sub, Field: strings.Join(sub, "."), Message: "is given twice", Remedy: "keep one"}
			}
			v, prob := toJSON(n.Content[i+1], sub)
			if prob != nil {
				return nil, prob
			}
			out[k.Value] = v
		}
		return out, nil
	case yaml.SequenceNode:
		out := make([]any, 0, len(n.Content))
		for i, c := range n.Content {
			v, prob := toJSON(c, append(at[:len(at):len(at)], strconv.Itoa(i)))
			if prob != nil {
				return nil, prob
			}
			out = append(out, v)
		}
		return out, nil
	}
	var v any
	if err := n.Decode(&v); err != nil {
		return nil, bad("is malformed", "quote it")
	}
	switch v := v.(type) {
	case nil, bool, string, int, int64, uint64:
		return v, nil
	case float64:
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return nil, bad("is not a number JSON knows", "use a finite number")
		}
		return v, nil
	}
	return nil, bad("is of a kind not used here", "quote it")
}

// lineOf finds the line of the deepest part of path that exists.
func lineOf(n *yaml.Node, path []string) int {
	line := n.Line
	for _, p := range path {
		var next *yaml.Node
		switch n.Kind {
		case yaml.MappingNode:
			for i := 0; i+1 < len(n.Content); i += 2 {
				if n.Content[i].Value == p {
					next, line = n.Content[i+1], n.Content[i].Line
				}
			}
		case yaml.SequenceNode:
			if i, err := strconv.Atoi(p); err == nil && i >= 0 && i < len(n.Content) {
				next, line = n.Content[i], n.Content[i].Line
			}
		}
		if next == nil {
			return line
		}
		n = next
	}
	return line
}

var units = []struct {
	name string
	size int64
}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"B", 1}}

func parseSize(s string) (int64, bool) {
	for _, u := range units {
		if num, ok := strings.CutSuffix(s, u.name); ok {
			v, err := strconv.ParseInt(num, 10, 64)
			if err != nil || v <= 0 || v > math.MaxInt64/u.size {
				return 0, false
			}
			return v * u.size, true
		}
	}
	return 0, false
}

func formatSize(v int64) string {
	for _, u := range units {
		if v%u.size == 0 {
			return strconv.FormatInt(v/u.size, 10) + u.name
		}
	}
	return strconv.FormatInt(v, 10)
}
