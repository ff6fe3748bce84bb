package manifest

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

const full = `name: acme
version: 1.4.0
description: speaks to ACME
protocol: 1
runtime: wasm
artifact: acme.wasm
env: [HOME]
models:
  - {name: "acme-*", tools: true, context_tokens: 128000}
  - name: acme-mini
egress:
  - https://api.acme.test
  - https://*.eu.acme.test:8443
  - ${setting:base_url}
secrets:
  - {name: ACME_KEY, origins: ["https://api.acme.test", "${setting:base_url}"], header: authorization}
  - {name: ACME_ORG, from: "env:ORG", origins: ["https://api.acme.test"], header: X-Org, optional: true}
settings:
  type: object
  additionalProperties: false
  properties:
    base_url: {type: string, description: give a URL}
    retries: {type: integer, minimum: 0, default: 2}
limits: {memory: 64MiB, concurrency: 8, cpu: 5s, idle: 20s, output: 1MiB}
`

func mustParse(t *testing.T, text string) *Manifest {
	t.Helper()
	m, err := Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestParse(t *testing.T) {
	m := mustParse(t, full)
	want := Defaults()
	want.Memory, want.Concurrency, want.CPU, want.Idle, want.Output = 64<<20, 8, 5*time.Second, 20*time.Second, 1<<20
	if m.Limits != want {
		t.Errorf("limits %+v, want %+v", m.Limits, want)
	}
	if len(m.Models) != 2 || m.Models[0] != (Model{Name: "acme-*", Tools: true, ContextTokens: 128000}) {
		t.Errorf("models %+v", m.Models)
	}
	if len(m.Egress) != 2 || m.Egress[1].String() != "https://*.eu.acme.test:8443" {
		t.Errorf("egress %v: a setting that isn't given must open nothing", m.Egress)
	}
	if s := m.Secrets[0]; s.From != "env:ACME_KEY" || s.Header != "Authorization" || len(s.Origins) != 1 {
		t.Errorf("secret %+v", s)
	}
}

func TestNativeKeys(t *testing.T) {
	m := mustParse(t, "name: n\nversion: 1.0.0\nprotocol: 1\nruntime: native\nartifact: n\nmodels: [{name: n}]\nfiles: [/usr/share/zoneinfo, /etc/ssl/certs]\nlimits: {processes: 3}\n")
	if strings.Join(m.Files, " ") != "/usr/share/zoneinfo /etc/ssl/certs" || m.Limits.Processes != 3 {
		t.Errorf("files %v, %d processes", m.Files, m.Limits.Processes)
	}
	if n, err := m.Narrow(Operator{Limits: Limits{Processes: 2}}); err != nil || n.Limits.Processes != 2 {
		t.Errorf("narrowed to %+v, %v", n, err)
	}
	if _, err := m.Narrow(Operator{Limits: Limits{Processes: 4}}); err == nil {
		t.Error("the operator got more processes than the manifest asks for")
	}
}

// Every refusal names the line, the field and what to do.
func TestParseRefuses(t *testing.T) {
	swap := func(old, with string) string {
		if !strings.Contains(full, old) {
			t.Fatalf("no %q in the manifest", old)
		}
		return strings.Replace(full, old, with, 1)
	}
	tests := map[string]struct {
		text string
		want []string
	}{
		"unknown key":         {swap("limits: {memory", "limits: {memori"), []string{":24", "limits.memori", "not a known key", "write memory"}},
		"unknown top key":     {full + "permissions: {}\n", []string{":25", "permissions", "not a known key", "remove it"}},
		"missing":             {swap("artifact: acme.wasm\n", ""), []string{"artifact", "is missing", "file beside the manifest"}},
		"path in artifact":    {swap("acme.wasm", "../acme.wasm"), []string{":6", "artifact", "../acme.wasm", "without a path"}},
		"script elsewhere":    {full + "script: ../acme.js\n", []string{":25", "script", "../acme.js", "beside the manifest"}},
		"script as a program": {swap("runtime: wasm", "runtime: native") + "script: acme.js\n", []string{":25", "script", "acme.js", "runtime native", "use runtime: wasm"}},
		"future protocol":     {swap("protocol: 1", "protocol: 2"), []string{"protocol", "2", "another version of sluice"}},
		"runtime":             {swap("runtime: wasm", "runtime: python"), []string{"runtime", "python", "native"}},
		"twice":               {full + "name: acme\n", []string{":25", "name", "given twice"}},
		"bad size":            {swap("64MiB", "64MB"), []string{":24", "limits.memory", "64MB", "such as 64MiB"}},
		"huge size":           {swap("64MiB", "5GiB"), []string{":24", "limits.memory", "5GiB", "4GiB"}},
		"bad duration":        {swap("cpu: 5s", "cpu: 25h"), []string{"limits.cpu", "25h", "24h"}},
		"number as name":      {swap("name: acme\n", "name: 12\n"), []string{":1", "name", "12"}},
		"no models":           {swap("  - {name: \"acme-*\", tools: true, context_tokens: 128000}\n  - name: acme-mini\n", "  []\n"), []string{"models", "list at least one model"}},
		"egress with path":    {swap("https://api.acme.test\n", "https://api.acme.test/v1\n"), []string{"egress", "https://api.acme.test/v1", "more than an origin"}},
		"egress ftp":          {swap("https://api.acme.test\n", "ftp://api.acme.test\n"), []string{"egress", "scheme"}},
		"egress everything":   {swap("https://*.eu.acme.test:8443", "https://*.test"), []string{"egress", "top-level"}},
		"secret elsewhere":    {swap(`origins: ["https://api.acme.test", "${setting`, `origins: ["https://evil.test", "${setting`), []string{"secrets.ACME_KEY.origins", "https://evil.test", "not among the egress origins"}},
		"secret from a file":  {swap("from: \"env:ORG\"", "from: \"file:/etc/shadow\""), []string{"secrets.1.from", "file:/etc/shadow", "operator's to give"}},
		"secret from command": {swap("from: \"env:ORG\"", "from: \"cmd:cat /etc/shadow\""), []string{"secrets.1.from", "operator's to give"}},
		"secret twice":        {swap("name: ACME_ORG", "name: ACME_KEY"), []string{"secrets.1.name", "named twice"}},
		"alias":               {swap("description: speaks to ACME", "description: &a x"), []string{":3", "anchor"}},
		"schema not object":   {swap("settings:\n  type: object", "settings:\n  type: array"), []string{"settings.type", "array"}},
		"schema from a file":  {swap("{type: string, description: give a URL}", "{$ref: 'file:///etc/passwd'}"), []string{"settings", "only to itself"}},
		"schema malformed":    {swap("minimum: 0", "minimum: low"), []string{"settings", "JSON schema"}},
		"not yaml":            {"name: [", []string{"correct the YAML"}},
		"empty":               {"", []string{"is empty"}},
		"a list":              {"- a\n", []string{"want object"}},
		"two documents":       {full + "---\nname: b\n", []string{"more than one document"}},
		"relative file":       {full + "files: [etc/ssl]\n", []string{":25", "files.0", "etc/ssl", "absolute path"}},
		"file upwards":        {full + "files: [/usr/../root]\n", []string{"files.0", "/usr/../root", "absolute path"}},
		"no processes":        {swap("limits: {memory", "limits: {processes: 0, memory"), []string{"limits.processes", "from 1 to 64"}},
		"tiny memory":         {swap("64MiB", "100B"), []string{"limits.memory", "64KiB"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := parse("plugin.yaml", []byte(tt.text))
			var p *Problem
			if !errors.As(err, &p) {
				t.Fatalf("error %v (%T)", err, err)
			}
			for _, want := range append(tt.want, "plugin.yaml") {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q lacks %q", err, want)
				}
			}
			if p.Remedy == "" {
				t.Error("no remedy")
			}
		})
	}
}

func TestLoadChecksTheDigest(t *testing.T) {
	dir := t.TempDir()
	artifact := []byte("\x00asm")
	sum := sha256.Sum256(artifact)
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write(File, full)
	if _, err := Load(dir); err == nil || !strings.Contains(err.Error(), "sha256 is missing; build the plugin") {
		t.Errorf("no digest: %v", err)
	}
	write(File, full+"sha256: "+hex.EncodeToString(sum[:])+"\n")
	if _, err := Load(dir); err == nil || !strings.Contains(err.Error(), "put the artifact beside") {
		t.Errorf("no artifact: %v", err)
	}
	write("acme.wasm", string(artifact))
	m, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := m.Read(); err != nil || string(b) != string(artifact) {
		t.Errorf("read %q, %v", b, err)
	}
	write("acme.wasm", "other")
	if _, err := m.Read(); !errors.Is(err, ErrDigest) {
		t.Errorf("an artifact swapped after Load: %v", err)
	}
	if _, err := Load(dir); !errors.Is(err, ErrDigest) {
		t.Errorf("another artifact: %v", err)
	}
}

func TestNarrow(t *testing.T) {
	m := mustParse(t, full)
	n, err := m.Narrow(Operator{
		Settings:     map[string]any{"base_url": "http://LocalHost:11434/v1"},
		Secrets:      map[string]string{"ACME_KEY": "file:/run/key"},
		Egress:       []string{"https://de.eu.acme.test:8443", "http://localhost:11434"},
		Limits:       Limits{Memory: 32 << 20, Idle: time.Second},
		AllowPrivate: []string{"localhost"},
	})
	if err != nil {
		t.Fatal(err)
	}
	var cfg map[string]any
	if err := json.Unmarshal(n.Config, &cfg); err != nil || !reflect.DeepEqual(cfg, map[string]any{"base_url": "http://LocalHost:11434/v1", "retries": 2.0}) {
		t.Errorf("config %s, %v", n.Config, err)
	}
	if len(n.Egress) != 2 || n.Egress[1] != (Origin{Scheme: "http", Host: "localhost", Port: "11434"}) {
		t.Errorf("egress %v", n.Egress)
	}
	if s := n.Secrets[0]; s.From != "file:/run/key" || len(s.Origins) != 2 || s.Origins[1].Host != "localhost" {
		t.Errorf("secret %+v", s)
	}
	if n.Limits.Memory != 32<<20 || n.Limits.Idle != time.Second || n.Limits.Concurrency != 8 {
		t.Errorf("limits %+v", n.Limits)
	}
	if m.Secrets[0].From != "env:ACME_KEY" || m.Limits.Memory != 64<<20 || m.AllowPrivate != nil {
		t.Error("Narrow changed the manifest it was given")
	}
}

func TestNarrowRefusesToWiden(t *testing.T) {
	tests := map[string]struct {
		op   Operator
		want []string
	}{
		"memory":         {Operator{Limits: Limits{Memory: 65 << 20}}, []string{"limits.memory", "65MiB", "64MiB"}},
		"concurrency":    {Operator{Limits: Limits{Concurrency: 9}}, []string{"limits.concurrency", "9", "8"}},
		"idle":           {Operator{Limits: Limits{Idle: time.Minute}}, []string{"limits.idle", "1m0s", "20s"}},
		"negative":       {Operator{Limits: Limits{Output: -1}}, []string{"limits.output"}},
		"open requests":  {Operator{Limits: Limits{OpenRequests: 5}}, []string{"limits.open_requests", "5", "4"}},
		"origin":         {Operator{Egress: []string{"https://evil.test"}}, []string{"egress", "https://evil.test", "only narrow"}},
		"scheme":         {Operator{Egress: []string{"http://api.acme.test"}}, []string{"egress", "only narrow"}},
		"port":           {Operator{Egress: []string{"https://api.acme.test:444"}}, []string{"egress", "only narrow"}},
		"apex":           {Operator{Egress: []string{"https://eu.acme.test:8443"}}, []string{"egress", "only narrow"}},
		"wider":          {Operator{Egress: []string{"https://*.acme.test:8443"}}, []string{"egress", "only narrow"}},
		"unknown secret": {Operator{Secrets: map[string]string{"OTHER": "env:X"}}, []string{"secrets.OTHER"}},
		"secret itself":  {Operator{Secrets: map[string]string{"ACME_KEY": "sk-123"}}, []string{"secrets.ACME_KEY", "env:NAME"}},
		"setting":        {Operator{Settings: map[string]any{"retrys": 1}}, []string{"settings.retrys", "write retries"}},
		"setting type":   {Operator{Settings: map[string]any{"base_url": 5}}, []string{"settings.base_url", "5", "give a URL"}},
		"setting no URL": {Operator{Settings: map[string]any{"base_url": "api"}}, []string{"settings.base_url", "api", "scheme"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := mustParse(t, full).Narrow(tt.op)
			if err == nil {
				t.Fatal("accepted")
			}
			for _, want := range append(tt.want, "plugin acme") {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q lacks %q", err, want)
				}
			}
			if strings.Contains(err.Error(), "sk-123") {
				t.Errorf("%q shows a secret", err)
			}
		})
	}
}

func TestOrigins(t *testing.T) {
	same := map[string]string{
		"https://API.Acme.test":        "https://api.acme.test",
		"https://api.acme.test:443/":   "https://api.acme.test",
		"https://api.acme.test.":       "https://api.acme.test",
		"http://[::ffff:127.0.0.1]:80": "http://127.0.0.1",
		"http://[::1]:8080":            "http://[::1]:8080",
		"https://*.acme.test":          "https://*.acme.test",
		"https://api.acme.test:0443":   "https://api.acme.test",
	}
	for in, want := range same {
		o, err := ParseOrigin(in)
		if err != nil || o.String() != want {
			t.Errorf("%s: %v, %v, want %s", in, o, err, want)
		}
	}
	for _, in := range []string{
		"", "api.acme.test", "//api.acme.test", "https://", "https://a@api.acme.test", "https://a:b@api.acme.test",
		"https://api.acme.test:", "https://api.acme.test:0", "https://api.acme.test:65536", "https://api.acme.test?x",
		"https://api.acme.test#x", "file:///etc/passwd", "https:api.acme.test", "https://api..test", "https://-a.test",
		"https://bücher.test", "https://0x7f000001", "https://2130706433", "https://127.1", "https://[fe80::1%25eth0]",
		"https://*.1.2.3.4", "https://*", "https://*.test", "https://a.*.test", "https://api.acme.test\x00", "https://a%2eb.test",
		"https://api.acme.test/\n", "https://a_b .test",
	} {
		if o, err := ParseOrigin(in); err == nil {
			t.Errorf("%q accepted as %v", in, o)
		}
	}
}

func TestSchemaIsValid(t *testing.T) {
	if !json.Valid(JSONSchema()) {
		t.Fatal("the embedded schema is not JSON")
	}
	_ = ownSchema()
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(full))
	f.Add([]byte("name: a\nversion: 1.0.0\nprotocol: 1\nruntime: native\nartifact: a\nmodels: [{name: a}]\n"))
	f.Add([]byte("a: &a [*a]"))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := Parse(b)
		if err != nil {
			return
		}
		if m.Settings == nil || m.Name == "" || len(m.Models) == 0 || m.Limits.Memory <= 0 {
			t.Errorf("accepted half a manifest: %+v", m)
		}
		if _, err := m.Narrow(Operator{}); err != nil {
			var p *Problem
			if !errors.As(err, &p) {
				t.Errorf("narrowing by nothing: %v", err)
			}
		}
	})
}

func FuzzOrigin(f *testing.F) {
	f.Add("https://api.acme.test:8443")
	f.Add("http://[::ffff:10.0.0.1]")
	f.Fuzz(func(t *testing.T, s string) {
		o, err := ParseOrigin(s)
		if err != nil {
			return
		}
		again, err := ParseOrigin(o.String())
		if err != nil || again != o {
			t.Errorf("%q is %+v, whose text %q is %+v, %v", s, o, o.String(), again, err)
		}
	})
}
