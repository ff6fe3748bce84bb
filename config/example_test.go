package config

import (
	"fmt"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"
)

const exampleFile = "../examples/sluice.yaml"

// The example file says the truth: it loads to the defaults, and it holds every
// key, each with a word about it.
func TestExampleFile(t *testing.T) {
	c, err := Load(Sources{File: exampleFile})
	if err != nil {
		t.Fatal(err)
	}
	want := Default()
	want.Plugins.Config = map[string]Plugin{"echo": {
		Settings: map[string]any{}, Secrets: map[string]Secret{},
	}}
	if diff := cmp.Diff(want, c, compareSecrets); diff != "" {
		t.Errorf("the example differs from the defaults (-default +example):\n%s", diff)
	}

	data, err := os.ReadFile(exampleFile)
	if err != nil {
		t.Fatal(err)
	}
	var document yaml.Node
	if err := yaml.Unmarshal(data, &document); err != nil {
		t.Fatal(err)
	}
	d := decoder{origin: map[string]string{}}
	d.noteLines("", "", document.Content[0])
	lines := strings.Split(string(data), "\n")
	for _, k := range Keys() {
		name := strings.ReplaceAll(k.Name, perPlugin, "echo")
		where, ok := d.origin[name]
		if !ok {
			t.Errorf("%s is not in the example", k.Name)
			continue
		}
		var line int
		if _, err := fmt.Sscanf(where, ":%d", &line); err != nil {
			t.Fatal(err)
		}
		comment := regexp.MustCompile(`#\s*\S`)
		explained := comment.MatchString(lines[line-1])
		for at := line - 2; !explained && at >= 0; at-- {
			text := lines[at]
			if strings.TrimSpace(text) == "" {
				break
			}
			explained = comment.MatchString(text)
			if indent(text) < indent(lines[line-1]) {
				break
			}
		}
		if !explained {
			t.Errorf("%s has no comment in the example", k.Name)
		}
	}
}

func indent(line string) int { return len(line) - len(strings.TrimLeft(line, " ")) }

// Every field of the struct has a name in the file, or it could not be set.
func TestEveryFieldHasAKey(t *testing.T) {
	var walk func(reflect.Type)
	walk = func(typ reflect.Type) {
		for i := range typ.NumField() {
			f := typ.Field(i)
			if !regexp.MustCompile(`^[a-z][a-z0-9_]*$`).MatchString(f.Tag.Get("koanf")) {
				t.Errorf("%s.%s has the key %q", typ, f.Name, f.Tag.Get("koanf"))
			}
			switch {
			case isSection(f.Type):
				walk(f.Type)
			case f.Type.Kind() == reflect.Map && isSection(f.Type.Elem()) && f.Type.Elem().Kind() == reflect.Struct:
				walk(f.Type.Elem())
			}
		}
	}
	walk(reflect.TypeFor[Config]())
}
