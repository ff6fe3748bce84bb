package sdk

import (
	"errors"
	"strings"
	"testing"
)

func TestBaseURLSetting(t *testing.T) {
	const def BaseURL = "https://api.acme.example"
	for _, c := range []struct {
		settings string
		want     BaseURL // "" for an error
	}{
		{``, def},
		{`{"base_url":""}`, def},
		{`{"base_url":null}`, def},
		{`{"base_url":"http://127.0.0.1:8000"}`, "http://127.0.0.1:8000"},
		{`{"base_url":"https://x.example/v1//"}`, "https://x.example/v1"},
		{`{"base_url":"localhost:8000"}`, ""},
		{`{"base_url":"ftp://x.example"}`, ""},
		{`{"base_url":"https://"}`, ""},
		{`{"base_url":"https:///v1"}`, ""},
		{`{"base_url":"https://x.example?key=1"}`, ""},
		{`{"base_url":"https://x.example/#top"}`, ""},
		{`{"base_url":"https://x.example /v1"}`, ""},
		{`{"base_url":7}`, ""},
	} {
		got, err := Settings(c.settings).BaseURL("base_url", def)
		if got != c.want || (err == nil) != (c.want != "") {
			t.Errorf("%s: %q, %v; want %q", c.settings, got, err, c.want)
		}
		var e *Error
		if err != nil && (!errors.As(err, &e) || e.Kind != Invalid || e.Fault != Host || !strings.HasPrefix(e.Message, "setting base_url ") || !strings.HasSuffix(e.Message, string(def))) {
			t.Errorf("%s: the error is %#v", c.settings, err)
		}
	}
	if _, err := Settings(`[]`).BaseURL("base_url", def); err == nil {
		t.Error("settings that are no object have a base")
	}
}

func TestBaseURLJoin(t *testing.T) {
	for _, c := range []struct {
		base       BaseURL
		path, want string
	}{
		{"https://x.example", "/v1/models", "https://x.example/v1/models"},
		{"https://x.example/v1", "/v1/models", "https://x.example/v1/models"},
		{"https://x.example/api/v4", "/v1/models?limit=9", "https://x.example/api/v4/models?limit=9"},
		{"https://x.example/v1", "/v1beta/models", "https://x.example/v1/models"},
		{"https://x.example/v1", "/v1", "https://x.example/v1"},
		{"https://x.example/v1", "/chat", "https://x.example/v1/chat"},
		{"https://x.example/v1", "", "https://x.example/v1"},
		{"https://x.example/v1/api", "/v1/models", "https://x.example/v1/api/v1/models"},
		{"https://x.example/via", "/v1/models", "https://x.example/via/v1/models"},
		{"https://x.example/v1.5", "/v1/models", "https://x.example/v1.5/v1/models"},
		{"http://v1", "/v1/models", "http://v1/v1/models"}, // a host of that name
		{"http://v1/v2", "/v1/models", "http://v1/v2/models"},
	} {
		if got := c.base.Join(c.path); got != c.want {
			t.Errorf("%s and %s are %s, want %s", c.base, c.path, got, c.want)
		}
	}
}

func TestBaseURLWithin(t *testing.T) {
	for base, want := range map[BaseURL]bool{
		"https://x.example": true, "https://x.example/v1": true,
		"https://x.example.evil.example": false, "https://x.example:444": false, "http://x.example": false,
	} {
		if base.Within("https://x.example") != want {
			t.Errorf("%s is within: %v", base, !want)
		}
	}
}
