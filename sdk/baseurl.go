package sdk

import (
	"encoding/json"
	"fmt"
	"strings"
)

// BaseURL is where an upstream is: an http or https URL with a host and perhaps a path, which does
// not end in a slash. [Settings.BaseURL] makes one.
type BaseURL string

// BaseURL is the setting of that name, in which an operator says where the upstream is, or def when
// it is absent or empty. What is no such URL is an [Invalid] error of the [Host]'s that names the
// setting.
func (s Settings) BaseURL(name string, def BaseURL) (BaseURL, error) {
	var m map[string]json.RawMessage
	if err := s.Decode(&m); err != nil {
		return "", err
	}
	raw, ok := m[name]
	if !ok || string(raw) == "null" {
		return def, nil
	}
	var v string
	err := json.Unmarshal(raw, &v)
	switch u := BaseURL(strings.TrimRight(v, "/")); {
	case err == nil && v == "":
		return def, nil
	case err == nil && u.isURL():
		return u, nil
	case err == nil:
		raw = fmt.Appendf(nil, "%q", v)
	}
	return "", &Error{Kind: Invalid, Fault: Host, Message: fmt.Sprintf("setting %s %s is not an http or https URL; write one such as %s", name, raw, def)}
}

// split is the scheme, the host and the path; package net/url would be a tenth of a guest's size.
func (u BaseURL) split() (scheme, host, path string) {
	scheme, rest, _ := strings.Cut(string(u), "://")
	if slash := strings.IndexByte(rest, '/'); slash >= 0 {
		return scheme, rest[:slash], rest[slash:]
	}
	return scheme, rest, ""
}

func (u BaseURL) isURL() bool {
	scheme, host, _ := u.split()
	return (scheme == "http" || scheme == "https") && host != "" && !strings.ContainsAny(string(u), "?# \t\r\n")
}

// Join is the URL of a path below the base, such as /v1/models. Some write a base with its version
// and some without: where the base ends in a version, that one stands in place of the one that the
// path begins with. A version is a segment such as v1 or v1beta.
func (u BaseURL) Join(path string) string {
	_, _, below := u.split()
	if isVersion(below[strings.LastIndexByte(below, '/')+1:]) {
		first, rest, more := strings.Cut(strings.TrimPrefix(path, "/"), "/")
		if isVersion(first) {
			if path = ""; more {
				path = "/" + rest
			}
		}
	}
	return string(u) + path
}

// Within reports whether the upstream is other, or a part of it: some things are asked only of the
// vendor itself and not of those who speak its dialect.
func (u BaseURL) Within(other BaseURL) bool {
	return u == other || strings.HasPrefix(string(u), string(other)+"/")
}

func isVersion(segment string) bool {
	return len(segment) > 1 && segment[0] == 'v' && segment[1] >= '0' && segment[1] <= '9' &&
		strings.Trim(segment[2:], "0123456789abcdefghijklmnopqrstuvwxyz") == ""
}
