package config

import (
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Key describes one setting.
type Key struct {
	Name    string // gateway.addr; plugins.config.<name>.egress for what is set per plugin
	Help    string // one line, no full stop
	Default string // as it would be written; "" for none
	Secret  bool   // not settable by a flag, which everybody on the machine can read
	kind    reflect.Type
}

var (
	durationType = reflect.TypeFor[time.Duration]()
	sizeType     = reflect.TypeFor[Size]()
	secretType   = reflect.TypeFor[Secret]()
	urlType      = reflect.TypeFor[URL]()
	freeType     = reflect.TypeFor[map[string]any]()
)

// perPlugin stands for a plugin's name in the name of a key.
const perPlugin = "<name>"

// Keys lists every setting, in the order of the struct.
func Keys() []Key {
	defaults := Default()
	return appendKeys(nil, "", reflect.ValueOf(defaults))
}

func appendKeys(keys []Key, prefix string, v reflect.Value) []Key {
	for i := range v.NumField() {
		field := v.Type().Field(i)
		name := joinKey(prefix, field.Tag.Get("koanf"))
		switch {
		case isSection(field.Type):
			keys = appendKeys(keys, name, v.Field(i))
		case field.Type.Kind() == reflect.Map && field.Type.Elem().Kind() == reflect.Struct && field.Type.Elem() != secretType:
			keys = appendKeys(keys, joinKey(name, perPlugin), reflect.Zero(field.Type.Elem()))
		default:
			keys = append(keys, Key{
				Name:    name,
				Help:    field.Tag.Get("help"),
				Default: written(v.Field(i)),
				Secret:  field.Type == secretType || field.Type.Kind() == reflect.Map && field.Type.Elem() == secretType,
				kind:    field.Type,
			})
		}
	}
	return keys
}

// written is a value as a configuration file would say it.
func written(v reflect.Value) string {
	switch x := v.Interface().(type) {
	case time.Duration:
		return shortDuration(x)
	case Size:
		return x.String()
	case Secret:
		return x.String()
	case URL:
		return x.String()
	case string:
		return x
	case []string:
		return strings.Join(x, ",")
	case bool:
		if x {
			return "true"
		}
		return "false"
	case int:
		return strconv.Itoa(x)
	}
	return ""
}

// shortDuration writes 24h, not 24h0m0s.
func shortDuration(d time.Duration) string {
	s := d.String()
	s = strings.TrimSuffix(s, "0s")
	if s == "" {
		return "0s"
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	if last := s[len(s)-1]; last >= '0' && last <= '9' || last == '.' {
		return d.String()
	}
	return s
}

// Changed lists the keys in which two configurations differ, in the order of the
// struct. What is set for one plugin is one key, plugins.config.<its name>.
func Changed(a, b Config) []string {
	return appendChanged(nil, "", reflect.ValueOf(a), reflect.ValueOf(b))
}

func appendChanged(keys []string, prefix string, a, b reflect.Value) []string {
	for i := range a.NumField() {
		field := a.Type().Field(i)
		name := joinKey(prefix, field.Tag.Get("koanf"))
		if isSection(field.Type) {
			keys = appendChanged(keys, name, a.Field(i), b.Field(i))
			continue
		}
		x, y := a.Field(i).Interface(), b.Field(i).Interface()
		if plugins, ok := x.(map[string]Plugin); ok {
			all := map[string]Plugin{}
			maps.Copy(all, plugins)
			maps.Copy(all, y.(map[string]Plugin))
			for _, p := range slices.Sorted(maps.Keys(all)) {
				if !reflect.DeepEqual(plugins[p], y.(map[string]Plugin)[p]) {
					keys = append(keys, joinKey(name, p))
				}
			}
		} else if !reflect.DeepEqual(x, y) {
			keys = append(keys, name)
		}
	}
	return keys
}

func isSection(t reflect.Type) bool {
	return t.Kind() == reflect.Struct && t != secretType && t != urlType
}

func joinKey(prefix, name string) string {
	if prefix == "" {
		return name
	}
	return prefix + "." + name
}

// fieldNames are the keys a section knows.
func fieldNames(t reflect.Type) []string {
	var names []string
	for i := range t.NumField() {
		names = append(names, t.Field(i).Tag.Get("koanf"))
	}
	return names
}

// suggest finds what somebody who wrote the unknown key name in section
// probably meant: a neighbour with nearly that name, or a key of that name in
// another section. It returns "" when nothing is near.
func suggest(section, name string, neighbours []string) string {
	folded := strings.ReplaceAll(strings.ToLower(name), "-", "_")
	best, distance := "", 1+max(2, len(folded)/3)
	for _, n := range neighbours {
		if d := editDistance(strings.ReplaceAll(folded, "_", ""), strings.ReplaceAll(n, "_", "")); d < distance {
			best, distance = joinKey(section, n), d
		}
	}
	if best != "" {
		return best
	}
	for _, k := range Keys() {
		if k.Name == joinKey(section, folded) || k.Name == folded || strings.HasSuffix(k.Name, "."+folded) {
			return k.Name
		}
	}
	return ""
}

// editDistance counts the letters to insert, drop or change between a and b.
func editDistance(a, b string) int {
	if len(a) > 64 || len(b) > 64 {
		return max(len(a), len(b))
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		previous := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			next := min(row[j+1]+1, row[j]+1, previous+cost)
			previous, row[j+1] = row[j+1], next
		}
	}
	return row[len(b)]
}

// flagged says whether a key is settable by a flag.
func (k Key) flagged() bool {
	return !k.Secret && k.kind != freeType && !slices.Contains(strings.Split(k.Name, "."), perPlugin)
}
