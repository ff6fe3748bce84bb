package config

import (
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Error is a configuration that can't be used: everything that is wrong with it.
type Error struct{ Issues []Issue }

// Issue is one thing wrong with a configuration.
type Issue struct {
	Key     string // gateway.addr
	Value   string // as it was said; "" when there is none to show, or it is secret
	Where   string // sluice.yaml:12, SLUICE_GATEWAY__ADDR, --gateway.addr, or "" for a default
	Problem string // what is wrong and what would do
}

func (e *Error) Error() string {
	lines := make([]string, len(e.Issues))
	for i, issue := range e.Issues {
		lines[i] = issue.String()
	}
	return strings.Join(lines, "\n")
}

func (i Issue) String() string {
	var b strings.Builder
	if i.Where != "" {
		b.WriteString(i.Where + ": ")
	}
	b.WriteString(i.Key)
	if i.Value != "" {
		fmt.Fprintf(&b, " = %s", clip(i.Value))
	}
	b.WriteString(" " + i.Problem)
	return b.String()
}

// clip keeps a quoted value readable in an error.
func clip(s string) string {
	const longest = 120
	if len(s) > longest {
		s = strings.ToValidUTF8(s[:longest], "") + "…"
	}
	return strconv.Quote(s)
}

// decoder puts the merged layers into a Config and gathers what is wrong.
type decoder struct {
	origin map[string]string // key -> where it was said
	getenv func(string) (string, bool)
	issues []Issue
}

// report adds an issue about a key, with the place that set it.
func (d *decoder) report(key, value, problem string) {
	d.issues = append(d.issues, Issue{Key: key, Value: value, Where: Places{d.origin}.Of(key), Problem: problem})
}

// decode writes raw, as a YAML parser or the environment gave it, into dst.
func (d *decoder) decode(key string, raw any, dst reflect.Value) {
	if raw == nil {
		return // an empty section or value leaves the default
	}
	switch {
	case isSection(dst.Type()):
		d.section(key, raw, dst)
	case dst.Type() == freeType:
		if m, ok := raw.(map[string]any); ok {
			dst.Set(reflect.ValueOf(m))
		} else {
			d.report(key, show(raw), "is a section"+madeOf(raw)+": put settings below it, one per line")
		}
	case dst.Kind() == reflect.Map:
		d.dictionary(key, raw, dst)
	case dst.Kind() == reflect.Slice:
		d.list(key, raw, dst)
	default:
		d.scalar(key, raw, dst)
	}
}

func (d *decoder) section(key string, raw any, dst reflect.Value) {
	m, ok := raw.(map[string]any)
	if !ok {
		d.report(key, show(raw), "is a section"+madeOf(raw)+": its keys are "+strings.Join(fieldNames(dst.Type()), ", "))
		return
	}
	names := fieldNames(dst.Type())
	for _, name := range slices.Sorted(maps.Keys(m)) {
		if i := slices.Index(names, name); i >= 0 {
			d.decode(joinKey(key, name), m[name], dst.Field(i))
			continue
		}
		problem := "is not a setting"
		if s := suggest(key, name, names); s != "" && s == joinKey(key, name) {
			problem += ": nest it, one section per level"
		} else if s != "" {
			problem += "; did you mean " + s + "?"
		} else if key == "" {
			problem += "; the sections are " + strings.Join(names, ", ")
		} else {
			problem += "; " + key + " has " + strings.Join(names, ", ")
		}
		d.report(joinKey(key, name), "", problem)
	}
}

// dictionary decodes a map whose keys are the operator's: plugins, secrets.
func (d *decoder) dictionary(key string, raw any, dst reflect.Value) {
	m, ok := raw.(map[string]any)
	if !ok {
		d.report(key, "", "is a section: put names below it, one per line")
		return
	}
	if dst.IsNil() {
		dst.Set(reflect.MakeMap(dst.Type()))
	}
	for _, name := range slices.Sorted(maps.Keys(m)) {
		element := reflect.New(dst.Type().Elem()).Elem()
		d.decode(joinKey(key, name), m[name], element)
		dst.SetMapIndex(reflect.ValueOf(name), element)
	}
}

func (d *decoder) list(key string, raw any, dst reflect.Value) {
	var list []string
	switch raw := raw.(type) {
	case string:
		for part := range strings.SplitSeq(raw, ",") {
			if part = strings.TrimSpace(part); part != "" {
				list = append(list, part)
			}
		}
	case []any:
		for _, element := range raw {
			text, ok := element.(string)
			if !ok {
				if madeOf(element) != "" {
					d.report(key, "", "is a list of texts"+madeOf(element)+"; write [one, two] or a line per entry")
				} else {
					d.report(key, show(element), "is not text; put each entry in quotes")
				}
				return
			}
			list = append(list, text)
		}
	default:
		d.report(key, show(raw), "is a list"+madeOf(raw)+"; write [one, two] or a line per entry")
		return
	}
	dst.Set(reflect.ValueOf(list))
}

func (d *decoder) scalar(key string, raw any, dst reflect.Value) {
	text, isText := raw.(string)
	if odd := madeOf(raw); odd != "" {
		d.report(key, "", "is a single value"+odd+"; write it behind the colon")
		return
	}
	switch dst.Type() {
	case secretType:
		secret, err := resolveSecret(text, d.getenv)
		switch {
		case !isText:
			d.report(key, "", "is not text; put it in quotes")
		case err != nil:
			d.report(key, "", "can't be read: "+err.Error())
		default:
			dst.Set(reflect.ValueOf(secret))
		}
		return
	case urlType:
		if !isText {
			d.report(key, "", "is not text; put it in quotes")
			return
		}
		dst.Set(reflect.ValueOf(URL{text}))
		return
	case durationType:
		duration, err := time.ParseDuration(text)
		if n, ok := whole(raw); ok && n == 0 {
			duration, err = 0, nil
		}
		if err != nil {
			d.report(key, show(raw), "is not a duration; write a number with its unit, such as 500ms, 30s or 2h")
			return
		}
		dst.SetInt(int64(duration))
		return
	case sizeType:
		size, err := ParseSize(text)
		if n, ok := whole(raw); ok && !isText && n >= 0 {
			size, err = Size(n), nil
		}
		if err != nil {
			d.report(key, show(raw), "is not a size; write bytes, or a number with its unit, such as 64KiB or 4MiB")
			return
		}
		dst.SetInt(int64(size))
		return
	}
	switch dst.Kind() {
	case reflect.Bool:
		switch {
		case raw == true || text == "true":
			dst.SetBool(true)
		case raw == false || text == "false":
			dst.SetBool(false)
		default:
			d.report(key, show(raw), "is neither true nor false")
		}
	case reflect.Int:
		n, ok := whole(raw)
		if !ok {
			d.report(key, show(raw), "is not a whole number")
			return
		}
		dst.SetInt(n)
	default:
		if !isText {
			d.report(key, show(raw), "is not text; put it in quotes")
			return
		}
		dst.SetString(text)
	}
}

// whole reads a whole number, from a parser's number or from text.
func whole(raw any) (int64, bool) {
	switch n := raw.(type) {
	case int:
		return int64(n), true
	case int64:
		return n, true
	case uint64:
		return int64(n), n <= math.MaxInt64
	case float64:
		return int64(n), n == math.Trunc(n) && math.Abs(n) < 1<<53
	case string:
		parsed, err := strconv.ParseInt(strings.TrimSpace(n), 10, 64)
		return parsed, err == nil
	}
	return 0, false
}

// show is a value for an error message, "" for one that is more than a value.
func show(raw any) string {
	if madeOf(raw) != "" {
		return ""
	}
	return fmt.Sprint(raw)
}

// madeOf says what a raw value is, if it is more than a value.
func madeOf(raw any) string {
	switch raw.(type) {
	case map[string]any:
		return ", and not a section"
	case []any:
		return ", and not a list"
	}
	return ""
}
