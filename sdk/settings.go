package sdk

import (
	"encoding/json"
	"time"
)

// Settings are an operator's settings for a plugin: one JSON object, valid against the schema of
// the manifest. They never hold secrets. The zero value is an empty object.
type Settings json.RawMessage

// Decode reads the settings into a struct with json tags.
func (s Settings) Decode(v any) error {
	if len(s) == 0 {
		return nil
	}
	if err := json.Unmarshal(s, v); err != nil {
		return &Error{Kind: Invalid, Fault: Host, Message: "settings: " + err.Error(), Err: err}
	}
	return nil
}

// String is the setting of that name, or def when it is absent or no string. Every getter parses
// the object again: decode into a struct when there is more than one.
func (s Settings) String(name, def string) string { return setting(s, name, def) }

// Int is the setting of that name, or def when it is absent or no integer.
func (s Settings) Int(name string, def int) int { return setting(s, name, def) }

// Float is the setting of that name, or def when it is absent or no number.
func (s Settings) Float(name string, def float64) float64 { return setting(s, name, def) }

// Bool is the setting of that name, or def when it is absent or no boolean.
func (s Settings) Bool(name string, def bool) bool { return setting(s, name, def) }

// Duration is the setting of that name, written as in "1m30s", or def.
func (s Settings) Duration(name string, def time.Duration) time.Duration {
	d, err := time.ParseDuration(setting(s, name, ""))
	if err != nil {
		return def
	}
	return d
}

func setting[T any](s Settings, name string, def T) T {
	var m map[string]json.RawMessage
	if s.Decode(&m) != nil {
		return def
	}
	v := def
	if raw, ok := m[name]; !ok || string(raw) == "null" || json.Unmarshal(raw, &v) != nil {
		return def
	}
	return v
}
