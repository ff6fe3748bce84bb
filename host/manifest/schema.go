package manifest

import (
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"
	"golang.org/x/text/language"
	"golang.org/x/text/message"
)

//go:embed plugin.schema.json
var manifestSchema []byte

// JSONSchema is the schema of plugin.yaml, for editors.
func JSONSchema() []byte { return slices.Clone(manifestSchema) }

var ownSchema = sync.OnceValue(func() *Schema {
	var doc any
	if err := json.Unmarshal(manifestSchema, &doc); err != nil {
		panic(err) // embedded: a broken build, shown by the first test
	}
	s, err := compileSchema(doc)
	if err != nil {
		panic(err)
	}
	return s
})

// Schema is a compiled JSON schema of an object. It may be shared.
type Schema struct {
	doc      any
	compiled *jsonschema.Schema
}

// noFiles keeps a plugin's schema from naming files or URLs to read.
type noFiles struct{}

func (noFiles) Load(url string) (any, error) {
	return nil, fmt.Errorf("%s: a schema may refer only to itself", url)
}

func compileSchema(doc any) (*Schema, error) {
	c := jsonschema.NewCompiler()
	c.UseLoader(noFiles{})
	const name = "mem:///schema.json"
	if err := c.AddResource(name, doc); err != nil {
		return nil, err
	}
	s, err := c.Compile(name)
	if err != nil {
		return nil, err
	}
	return &Schema{doc: doc, compiled: s}, nil
}

// MarshalJSON gives the schema as it was written.
func (s *Schema) MarshalJSON() ([]byte, error) { return json.Marshal(s.doc) }

// Apply checks settings against the schema and returns them over the defaults
// that the schema's top-level properties name.
func (s *Schema) Apply(settings map[string]any) (map[string]any, error) {
	out := s.defaults()
	maps.Copy(out, settings)
	b, err := json.Marshal(out) // brings whatever the configuration library made to JSON's types
	if err != nil {
		return nil, fmt.Errorf("encode settings: %w", err)
	}
	out = map[string]any{}
	if err := json.Unmarshal(b, &out); err != nil {
		return nil, fmt.Errorf("decode settings: %w", err)
	}
	if p := s.check(out); p != nil {
		p.Field = strings.TrimSuffix("settings."+p.Field, ".")
		return nil, p
	}
	return out, nil
}

func (s *Schema) defaults() map[string]any {
	out := map[string]any{}
	obj, _ := s.doc.(map[string]any)
	props, _ := obj["properties"].(map[string]any)
	for name, p := range props {
		if p, ok := p.(map[string]any); ok && p["default"] != nil {
			out[name] = p["default"]
		}
	}
	return out
}

// check returns the first problem in reading order, or nil.
func (s *Schema) check(v any) *Problem {
	err := s.compiled.Validate(v)
	if err == nil {
		return nil
	}
	var ve *jsonschema.ValidationError
	if !errors.As(err, &ve) {
		return &Problem{Message: err.Error(), Remedy: "correct the value"}
	}
	leaf := ve
	for len(leaf.Causes) > 0 {
		leaf = leaf.Causes[0]
	}
	p := &Problem{Field: strings.Join(leaf.InstanceLocation, "."), path: slices.Clone(leaf.InstanceLocation)}
	p.Value = show(lookup(v, leaf.InstanceLocation))
	p.Remedy = s.remedy(leaf.SchemaURL)
	switch k := leaf.ErrorKind.(type) {
	case *kind.AdditionalProperties:
		name := slices.Min(k.Properties)
		p.path = append(p.path, name)
		p.Field, p.Value = strings.Join(p.path, "."), ""
		p.Message = "is not a known key"
		p.Remedy = "remove it"
		if near := nearest(name, s.properties(leaf.SchemaURL)); near != "" {
			p.Remedy = "write " + near + ", or remove it"
		}
	case *kind.Required:
		p.path = append(p.path, k.Missing[0])
		p.Field, p.Value = strings.Join(p.path, "."), ""
		p.Message = "is missing"
		if r := s.remedy(leaf.SchemaURL + "/properties/" + k.Missing[0]); r != "" {
			p.Remedy = r
		}
		p.path = p.path[:len(p.path)-1] // the line of the object that lacks it
	case *kind.Pattern, *kind.Enum, *kind.Const:
		p.Message = "is not allowed"
	default:
		p.Message = leaf.ErrorKind.LocalizedString(message.NewPrinter(language.English))
	}
	if p.Remedy == "" {
		p.Remedy = "correct the value as the schema says"
	}
	return p
}

// node finds the part of the schema a location such as file#/properties/name points at.
func (s *Schema) node(url string) map[string]any {
	_, frag, _ := strings.Cut(url, "#")
	cur := s.doc
	for part := range strings.SplitSeq(strings.TrimPrefix(frag, "/"), "/") {
		if part == "" {
			continue
		}
		part = strings.NewReplacer("~1", "/", "~0", "~").Replace(part)
		switch v := cur.(type) {
		case map[string]any:
			cur = v[part]
		default:
			return nil
		}
	}
	m, _ := cur.(map[string]any)
	return m
}

func (s *Schema) remedy(url string) string {
	d, _ := s.node(url)["description"].(string)
	if ref, ok := s.node(url)["$ref"].(string); ok && d == "" {
		d, _ = s.node(ref)["description"].(string)
	}
	return d
}

func (s *Schema) properties(url string) []string {
	props, _ := s.node(url)["properties"].(map[string]any)
	return slices.Sorted(maps.Keys(props))
}

func lookup(v any, path []string) any {
	for _, p := range path {
		switch t := v.(type) {
		case map[string]any:
			v = t[p]
		case []any:
			i, err := strconv.Atoi(p)
			if err != nil || i < 0 || i >= len(t) {
				return nil
			}
			v = t[i]
		default:
			return nil
		}
	}
	return v
}

// show renders a scalar for an error; larger values are not repeated.
func show(v any) string {
	switch v.(type) {
	case nil, map[string]any, []any:
		return ""
	}
	s := fmt.Sprint(v)
	if len(s) > 80 {
		s = s[:80] + "…"
	}
	return s
}

// nearest is the known name one or two slips away from name, or "".
func nearest(name string, known []string) string {
	best, at := "", 3
	for _, k := range known {
		if d := distance(strings.ToLower(name), k); d < at {
			best, at = k, d
		}
	}
	return best
}

func distance(a, b string) int {
	prev := make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := range len(a) {
		cur := make([]int, len(b)+1)
		cur[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			cur[j+1] = min(prev[j]+cost, prev[j+1]+1, cur[j]+1)
		}
		prev = cur
	}
	return prev[len(b)]
}
