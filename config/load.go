package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"reflect"
	"strings"

	koanfyaml "github.com/knadh/koanf/parsers/yaml"
	"github.com/knadh/koanf/providers/env/v2"
	"github.com/knadh/koanf/providers/posflag"
	"github.com/knadh/koanf/providers/rawbytes"
	"github.com/knadh/koanf/v2"
	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"
)

// DefaultFile is the file that is read when none is named and it exists.
const DefaultFile = "sluice.yaml"

const envPrefix = "SLUICE_"

// fileVariable names the configuration file, as --config does.
const fileVariable = envPrefix + "CONFIG"

// Sources says where a configuration comes from.
type Sources struct {
	File    string         // "" reads SLUICE_CONFIG or DefaultFile, if there is one
	Environ []string       // NAME=value; nil reads no environment
	Flags   *pflag.FlagSet // parsed, with the flags of AddFlags; nil has none
}

// AddFlags defines one flag per key that can be one, and --config.
func AddFlags(flags *pflag.FlagSet) {
	flags.String("config", "", "configuration file (default ./"+DefaultFile+", if it exists)")
	for _, k := range Keys() {
		switch {
		case !k.flagged():
		case k.kind.Kind() == reflect.Bool:
			flags.Bool(k.Name, k.Default == "true", k.Help)
		default:
			flags.String(k.Name, k.Default, k.Help)
		}
	}
}

// Load reads all sources and returns a complete, valid configuration, or an
// *Error that lists everything that is wrong.
func Load(from Sources) (Config, error) {
	c, _, err := Locate(from)
	return c, err
}

// Places tells where the settings of a configuration were said.
type Places struct{ origin map[string]string }

// Of is where a key was said, or the nearest section it is in: sluice.yaml:12,
// SLUICE_GATEWAY__ADDR, --gateway.addr, or "" for a default.
func (p Places) Of(key string) string {
	for at := key; at != ""; at = at[:max(strings.LastIndexByte(at, '.'), 0)] {
		if where := p.origin[at]; where != "" {
			return where
		}
	}
	return ""
}

// Locate is Load, for who has more to say about the settings.
func Locate(from Sources) (Config, Places, error) {
	environ := map[string]string{}
	for _, pair := range from.Environ {
		if name, value, ok := strings.Cut(pair, "="); ok {
			environ[name] = value
		}
	}
	path, named := from.File, from.File != ""
	if from.Flags != nil && !named {
		path, _ = from.Flags.GetString("config")
		named = path != ""
	}
	if !named {
		path = environ[fileVariable]
		named = path != ""
	}
	if !named {
		path = DefaultFile
	}
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) && !named {
		data, err = nil, nil
	}
	if err != nil {
		return Config{}, Places{}, fmt.Errorf("read configuration: %w", err)
	}
	return load(path, data, environ, from.Flags)
}

// load is Load with the file's content and the environment in hand.
func load(path string, data []byte, environ map[string]string, flags *pflag.FlagSet) (Config, Places, error) {
	d := &decoder{
		origin: map[string]string{},
		getenv: func(name string) (string, bool) { v, ok := environ[name]; return v, ok },
	}
	all := koanf.New(".")
	if err := d.loadFile(all, path, data); err != nil {
		return Config{}, Places{}, err
	}
	if err := d.loadEnv(all, environ); err != nil {
		return Config{}, Places{}, err
	}
	if flags != nil {
		if err := d.loadFlags(all, flags); err != nil {
			return Config{}, Places{}, err
		}
	}
	c := Default()
	d.decode("", all.Raw(), reflect.ValueOf(&c).Elem())
	if len(d.issues) == 0 {
		c.validate(d.report)
	}
	if len(d.issues) > 0 {
		return Config{}, Places{}, &Error{Issues: d.issues}
	}
	return c, Places{d.origin}, nil
}

func (d *decoder) loadFile(all *koanf.Koanf, path string, data []byte) error {
	var document yaml.Node
	reader := yaml.NewDecoder(bytes.NewReader(data))
	switch err := reader.Decode(&document); {
	case errors.Is(err, io.EOF):
		return nil // empty, or comments only
	case err != nil && strings.Contains(err.Error(), "cannot start any token") && bytes.ContainsRune(data, '\t'):
		return fmt.Errorf("read configuration %s: %w: indent with spaces, not with tabs", path, err)
	case err != nil:
		return fmt.Errorf("read configuration %s: %w", path, err)
	}
	if err := reader.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return fmt.Errorf("read configuration %s: more than one YAML document", path)
	}
	if root := document.Content[0]; root.Kind != yaml.MappingNode {
		if root.Tag == "!!null" {
			return nil
		}
		return fmt.Errorf("read configuration %s:%d: not made of sections; write gateway: and its settings below", path, root.Line)
	}
	if err := all.Load(rawbytes.Provider(data), koanfyaml.Parser()); err != nil {
		return fmt.Errorf("read configuration %s: %w", path, err)
	}
	d.noteLines(path, "", document.Content[0])
	return nil
}

// noteLines remembers the line of every key. It doesn't look into aliases: a
// key that comes out of one is reported at the line of the alias.
func (d *decoder) noteLines(path, prefix string, node *yaml.Node) {
	if node.Kind != yaml.MappingNode {
		return
	}
	for i := 0; i+1 < len(node.Content); i += 2 {
		name := joinKey(prefix, node.Content[i].Value)
		d.origin[name] = fmt.Sprintf("%s:%d", path, node.Content[i].Line)
		d.noteLines(path, name, node.Content[i+1])
	}
}

func (d *decoder) loadEnv(all *koanf.Koanf, environ map[string]string) error {
	var plugins []string
	if section, ok := all.Get("plugins.config").(map[string]any); ok {
		for name := range section {
			plugins = append(plugins, name)
		}
	}
	seen := map[string]string{}
	provider := env.Provider(".", env.Opt{
		Prefix: envPrefix,
		EnvironFunc: func() []string {
			var list []string
			for name, value := range environ {
				list = append(list, name+"="+value)
			}
			return list
		},
		TransformFunc: func(name, value string) (string, any) {
			key := envKey(name, plugins)
			if key == "" {
				d.checkNearMiss(name)
				return "", nil
			}
			for parent := key; ; {
				if other := seen[parent]; other != "" && other != name {
					d.issues = append(d.issues, Issue{Key: key, Where: name, Problem: "is said by " + other + " too"})
					return "", nil
				}
				cut := strings.LastIndexByte(parent, '.')
				if cut < 0 {
					break
				}
				parent = parent[:cut]
			}
			seen[key] = name
			d.origin[key] = name
			if isFree(key) {
				var parsed any
				if yaml.Unmarshal([]byte(value), &parsed) == nil && parsed != nil {
					return key, parsed
				}
			}
			return key, value
		},
	})
	if err := all.Load(provider, nil); err != nil {
		return fmt.Errorf("read the environment: %w", err)
	}
	return nil
}

// envKey turns SLUICE_GATEWAY__ADDR into gateway.addr, and anything that isn't
// of that form into "". Environment names know no hyphens, so a plugin's name
// is taken from the file when one there matches.
func envKey(name string, plugins []string) string {
	parts := strings.Split(strings.TrimPrefix(name, envPrefix), "__")
	if len(parts) < 2 {
		return ""
	}
	for i, part := range parts {
		if part == "" || strings.Contains(part, ".") {
			return ""
		}
		lower := strings.ToLower(part)
		switch {
		case i == 4 && parts[3] == "secrets":
			// names of secrets keep their case
		case i == 2 && parts[0] == "plugins" && parts[1] == "config":
			parts[i] = lower
			for _, p := range plugins {
				if strings.ReplaceAll(strings.ToLower(p), "-", "_") == lower {
					parts[i] = p
				}
			}
		default:
			parts[i] = lower
		}
	}
	return strings.Join(parts, ".")
}

// checkNearMiss reports SLUICE_GATEWAY_ADDR, which was surely meant as
// SLUICE_GATEWAY__ADDR. Other names are left alone: container platforms make up
// variables such as SLUICE_SERVICE_HOST.
func (d *decoder) checkNearMiss(name string) {
	folded := strings.ToLower(strings.TrimPrefix(name, envPrefix))
	for _, k := range Keys() {
		if strings.ReplaceAll(k.Name, ".", "_") == folded {
			right := envPrefix + strings.ToUpper(strings.ReplaceAll(k.Name, ".", "__"))
			d.issues = append(d.issues, Issue{Key: name, Where: "environment", Problem: "is not read; write " + right})
			return
		}
	}
}

// isFree says whether a key lies in a plugin's own settings.
func isFree(key string) bool {
	parts := strings.Split(key, ".")
	return len(parts) > 4 && parts[0] == "plugins" && parts[1] == "config" && parts[3] == "settings"
}

func (d *decoder) loadFlags(all *koanf.Koanf, flags *pflag.FlagSet) error {
	known := map[string]bool{}
	for _, k := range Keys() {
		known[k.Name] = k.flagged()
	}
	provider := posflag.ProviderWithFlag(flags, ".", all, func(f *pflag.Flag) (string, any) {
		if !f.Changed || !known[f.Name] {
			return "", nil
		}
		d.origin[f.Name] = "--" + f.Name
		return f.Name, f.Value.String()
	})
	if err := all.Load(provider, nil); err != nil {
		return fmt.Errorf("read flags: %w", err)
	}
	return nil
}
