package manifest

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sluicehq/sluice/sdk"
)

// Operator is what the operator's configuration says about one plugin. Every
// zero field leaves the manifest's as it is.
type Operator struct {
	Settings     map[string]any    // checked against the manifest's schema
	Secrets      map[string]string // secret name → reference, replaces the manifest's; a value itself is written "value:"+text
	Egress       []string          // origins, each within one the manifest names
	Models       []string          // names or globs that are served besides, where the manifest has further models
	Limits       Limits
	AllowPrivate []string // host names (or host:port) that may resolve to private addresses
}

// Narrow returns the manifest as it is in force under op. An operator may
// narrow what a manifest asks for and never widen it: an error says which key
// would have.
func (m *Manifest) Narrow(op Operator) (*Manifest, error) {
	n := *m
	cfg, err := m.Settings.Apply(op.Settings)
	if err != nil {
		return nil, fmt.Errorf("plugin %s: %w", m.Name, err)
	}
	n.Config, err = json.Marshal(cfg)
	if err != nil {
		return nil, fmt.Errorf("plugin %s: encode settings: %w", m.Name, err)
	}
	if err := n.resolve(cfg); err != nil {
		return nil, fmt.Errorf("plugin %s: %w", m.Name, err)
	}
	if op.Egress != nil {
		if n.Egress, err = narrowEgress(n.Egress, op.Egress); err != nil {
			return nil, fmt.Errorf("plugin %s: %w", m.Name, err)
		}
	}
	if n.Secrets, err = narrowSecrets(n.Secrets, op.Secrets); err != nil {
		return nil, fmt.Errorf("plugin %s: %w", m.Name, err)
	}
	if n.Limits, err = narrowLimits(m.Limits, op.Limits); err != nil {
		return nil, fmt.Errorf("plugin %s: %w", m.Name, err)
	}
	if n.Models, err = m.withFurther(op.Models); err != nil {
		return nil, fmt.Errorf("plugin %s: %w", m.Name, err)
	}
	n.AllowPrivate = slices.Clone(op.AllowPrivate)
	return &n, nil
}

// resolve fills Egress and the secrets' origins, with ${setting:…} replaced by
// the origin of that setting's value.
func (m *Manifest) resolve(cfg map[string]any) error {
	egress, err := resolveOrigins("egress", m.egress, cfg)
	if err != nil {
		return err
	}
	secrets := slices.Clone(m.Secrets)
	for i := range secrets {
		field := "secrets." + secrets[i].Name + ".origins"
		list, err := resolveOrigins(field, m.bound[secrets[i].Name], cfg)
		if err != nil {
			return err
		}
		for _, o := range list {
			if !within(egress, o) {
				return &Problem{Field: field, Value: o.String(), Message: "is not among the egress origins", Remedy: "list it under egress too"}
			}
		}
		secrets[i].Origins = list
	}
	m.Egress, m.Secrets = egress, secrets
	return nil
}

func resolveOrigins(field string, list []string, cfg map[string]any) ([]Origin, error) {
	var out []Origin
	for _, s := range list {
		name, ok := settingRef(s)
		if !ok {
			o, err := ParseOrigin(s)
			if err != nil {
				return nil, &Problem{Field: field, Value: s, Message: err.Error(), Remedy: "write an origin: https://api.example.com"}
			}
			out = append(out, o)
			continue
		}
		v, ok := cfg[name].(string)
		if !ok || v == "" {
			continue // a setting not given opens nothing
		}
		o, err := OriginOf(v)
		if err != nil {
			return nil, &Problem{Field: "settings." + name, Value: v, Message: err.Error(), Remedy: "give a URL with a scheme and a host, such as https://api.example.com/v1"}
		}
		out = append(out, o)
	}
	return out, nil
}

func settingRef(s string) (string, bool) {
	s, ok := strings.CutPrefix(s, "${setting:")
	if !ok {
		return "", false
	}
	return strings.CutSuffix(s, "}")
}

// withFurther are the models with those that the operator names. A name is a route and no right: what
// the plugin may reach and use stays as it is, so that it may be added to where the manifest says that
// there are others.
func (m *Manifest) withFurther(names []string) ([]Model, error) {
	all := slices.Clone(m.Models)
	for _, name := range names {
		if name == "" || len(name) > 200 || strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' }) {
			return nil, &Problem{Field: "models", Value: name, Message: "is no name of a model", Remedy: "use at most 200 characters without spaces"}
		}
		if slices.ContainsFunc(all, func(have Model) bool { return have.Name == name }) {
			continue
		}
		// Naming one that a glob serves already makes it known by its name.
		if i := slices.IndexFunc(m.Models, func(have Model) bool { return sdk.Model(have).Matches(name) }); i >= 0 {
			with := m.Models[i]
			with.Name = name
			all = append(all, with)
			continue
		}
		if m.Further == nil {
			return nil, &Problem{Field: "models", Value: name, Message: "is not a model of the plugin's manifest, which has no further_models",
				Remedy: "remove it, or use a plugin that serves it"}
		}
		with := *m.Further
		with.Name = name
		all = append(all, with)
	}
	return all, nil
}

func narrowEgress(have []Origin, want []string) ([]Origin, error) {
	out := []Origin{}
	for _, s := range want {
		o, err := ParseOrigin(s)
		if err != nil {
			return nil, &Problem{Field: "egress", Value: s, Message: err.Error(), Remedy: "write an origin: https://api.example.com"}
		}
		if !within(have, o) {
			return nil, &Problem{Field: "egress", Value: s, Message: "is not an origin the plugin's manifest asks for, and configuration may only narrow it",
				Remedy: "remove it, or use a plugin whose manifest lists it"}
		}
		out = append(out, o)
	}
	return out, nil
}

func narrowSecrets(have []Secret, refs map[string]string) ([]Secret, error) {
	out := slices.Clone(have)
	for name, ref := range refs {
		i := slices.IndexFunc(out, func(s Secret) bool { return s.Name == name })
		if i < 0 {
			return nil, &Problem{Field: "secrets." + name, Message: "is not a secret the plugin's manifest asks for",
				Remedy: "remove it; the plugin would never send it"}
		}
		if !validRef(ref) {
			return nil, &Problem{Field: "secrets." + name, Message: "is not a reference",
				Remedy: "write env:NAME, file:/path or cmd:program"}
		}
		out[i].From = ref
	}
	return out, nil
}

func validRef(ref string) bool {
	kind, rest, ok := strings.Cut(ref, ":")
	return ok && strings.TrimSpace(rest) != "" && (kind == "env" || kind == "file" || kind == "cmd" || kind == "value")
}

func narrowLimits(have, want Limits) (Limits, error) {
	var err error
	narrow := func(key string, have, want int64, show func(int64) string) int64 {
		switch {
		case want == 0:
			return have
		case want < 0 || want > have:
			if err == nil {
				err = &Problem{Field: "limits." + key, Value: show(want), Message: "is above the manifest's " + show(have) + ", and configuration may only narrow it",
					Remedy: "give at most " + show(have)}
			}
			return have
		}
		return want
	}
	num := func(v int64) string { return fmt.Sprint(v) }
	dur := func(v int64) string { return time.Duration(v).String() }
	out := Limits{
		Memory:       narrow("memory", have.Memory, want.Memory, formatSize),
		Concurrency:  int(narrow("concurrency", int64(have.Concurrency), int64(want.Concurrency), num)),
		Processes:    int(narrow("processes", int64(have.Processes), int64(want.Processes), num)),
		CPU:          time.Duration(narrow("cpu", int64(have.CPU), int64(want.CPU), dur)),
		FirstToken:   time.Duration(narrow("first_token", int64(have.FirstToken), int64(want.FirstToken), dur)),
		Idle:         time.Duration(narrow("idle", int64(have.Idle), int64(want.Idle), dur)),
		Total:        time.Duration(narrow("total", int64(have.Total), int64(want.Total), dur)),
		Output:       narrow("output", have.Output, want.Output, formatSize),
		OpenRequests: int(narrow("open_requests", int64(have.OpenRequests), int64(want.OpenRequests), num)),
		RequestBody:  narrow("request_body", have.RequestBody, want.RequestBody, formatSize),
		ResponseBody: narrow("response_body", have.ResponseBody, want.ResponseBody, formatSize),
	}
	return out, err
}
