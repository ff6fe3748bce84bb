package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// sluice check finds before a start what would go wrong in it: where it was
// said, the key, and what would do.
func TestCheck(t *testing.T) {
	t.Chdir(t.TempDir())
	const sum = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855" // of nothing
	const head = "version: 1.0.0\nprotocol: 1\nruntime: native\nartifact: a\nsha256: " + sum + "\nmodels: [{name: \"gpt-*\"}]\n"
	for file, text := range map[string]string{
		"plugins/acme/plugin.yaml": "name: acme\n" + head + `egress: ["${setting:url}"]
secrets: [{name: KEY, origins: ["${setting:url}"], header: Authorization, optional: true}]
settings: {type: object, additionalProperties: false, properties: {url: {type: string, default: "https://api.example.com"}}}
limits: {memory: 64MiB}
`,
		"plugins/acme/a":        "",
		"twins/a/plugin.yaml":   "name: twin\n" + head,
		"twins/a/a":             "",
		"twins/b/plugin.yaml":   "name: twin\n" + head,
		"twins/b/a":             "",
		"changed/a/plugin.yaml": "name: changed\n" + head,
		"changed/a/a":           "other bytes",
		"broken/b/plugin.yaml":  "name: b\n" + head + "egres: []\n",
		"keyless/k/plugin.yaml": "name: keyless\n" + head + "egress: [\"https://a.example\"]\nsecrets: [{name: KEYLESS_KEY, from: \"env:KEYLESS_KEY\", origins: [\"https://a.example\"], header: A}]\n",
		"keyless/k/a":           "",
		"good.keys":             "",
		"bad.keys":              "not a key\n",
		"file":                  "",
	} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	const acme = "plugins:\n  dirs: [plugins]\n  config:\n    acme:\n      "
	for _, tt := range []struct{ name, yaml, err, out string }{
		{"section", "gatway: {}", "c.yaml:1: gatway is not a setting; did you mean gateway?", ""},
		{"key", "gateway:\n  limits:\n    quary: 3", "c.yaml:3: gateway.limits.quary is not a setting; did you mean gateway.limits.query?", ""},
		{"unit", "host:\n  grace: 30", `c.yaml:2: host.grace = "30" is not a duration; write a number with its unit`, ""},
		{"size", "host:\n  buffer: {job: 3 megs}", `c.yaml:2: host.buffer.job = "3 megs" is not a size`, ""},
		{"negative", "log: {level: info}\nhost:\n  concurrency: -1", `c.yaml:3: host.concurrency = "-1" is out of range: 1 to 100000`, ""},
		{"type", "log: debug", `c.yaml:1: log = "debug" is a section: its keys are level, format`, ""},
		{"tabs", "gateway:\n\taddr: x", "c.yaml: yaml: line 2: found character that cannot start any token: indent with spaces, not with tabs", ""},
		{"twice", "plugins:\n  config:\n    acme: {}\n    acme: {}", `line 4: mapping key "acme" already defined at line 3`, ""},
		{"secret file", "gateway:\n  auth:\n    mode: hs256\n    secret: file:none", "c.yaml:4: gateway.auth.secret can't be read: open none: no such file", ""},
		{"secret directory", "gateway:\n  auth:\n    mode: hs256\n    secret: file:plugins", "c.yaml:4: gateway.auth.secret can't be read: read plugins: is a directory", ""},
		{"secret program", "redis:\n  password: cmd:false", "c.yaml:2: redis.password can't be read: command false: exit status 1", ""},
		{"keys", "gateway:\n  auth:\n    mode: keys\n    keys_file: none.keys", "c.yaml:4: gateway.auth.keys_file: stat none.keys: no such file", ""},
		{"bad keys", "gateway:\n  auth:\n    mode: keys\n    keys_file: bad.keys", "c.yaml:4: gateway.auth.keys_file: bad.keys: line 1:", ""},
		{"authority", "redis:\n  url: rediss://h\n  tls:\n    ca_file: none.pem", "c.yaml:4: redis.tls.ca_file can't be read: open none.pem: no such file", ""},
		{"empty authority", "redis:\n  url: rediss://h\n  tls:\n    ca_file: file", "c.yaml:4: redis.tls.ca_file holds no certificate in PEM", ""},
		{"certificate", "redis:\n  url: rediss://h\n  tls:\n    cert_file: file\n    key_file: file", "c.yaml:4: redis.tls.cert_file can't be used with redis.tls.key_file", ""},
		{"TLS for nothing", "redis:\n  url: redis://h\n  tls:\n    ca_file: file", "c.yaml:3: redis.tls has no use while redis.url is not encrypted; write rediss://", ""},
		{"password in the url", "redis:\n  url: redis://:hunter2@h/x", "c.yaml:2: redis.url = \"redis://:[redacted]@h/x\" has a database that isn't a number", ""},
		{"cache folder", "plugins:\n  cache_dir: file/cache", `c.yaml:2: plugins.cache_dir = "file/cache" can't be written to`, ""},
		{"data folder", "redis:\n  data_dir: file", `c.yaml:2: redis.data_dir = "file" can't be written to`, ""},
		{"plugin folder", "plugins:\n  dirs: [none]", "c.yaml:2: plugins.dirs: open none: no such file", ""},
		{"setting", acme + "settings:\n        ulr: x", `c.yaml:6: plugins.config.acme.settings.ulr is not a known key; write url, or remove it`, ""},
		{"setting's type", acme + "settings: {url: 3}", `c.yaml:5: plugins.config.acme.settings.url "3" got number, want string`, ""},
		{"setting's value", acme + "settings: {url: nonsense}", `plugins.config.acme.settings.url "nonsense" has a scheme other than http and https`, ""},
		{"secret's name", acme + "secrets: {KYE: x}", "c.yaml:5: plugins.config.acme.secrets.KYE is not a secret the plugin's manifest asks for", ""},
		{"origin", acme + "egress: [\"https://evil.example\"]", `c.yaml:5: plugins.config.acme.egress "https://evil.example" is not an origin the plugin's manifest asks for`, ""},
		{"limit", acme + "limits: {memory: 32GiB}", `c.yaml:5: plugins.config.acme.limits.memory "32GiB" is above the manifest's 64MiB`, ""},
		{"twins", "plugins:\n  dirs: [twins]", "plugin twin in twins/b: another plugin has this name: twins/a", ""},
		{"digest", "plugins:\n  dirs: [changed]", "plugin a in changed/a: ", ""},
		{"manifest", "plugins:\n  dirs: [broken]", "broken/b/plugin.yaml:8: egres is not a known key", ""},
		{"key not set", "plugins:\n  dirs: [keyless]", "secret KEYLESS_KEY has no value: environment variable KEYLESS_KEY; set it", ""},

		{"nothing", "", "", "The configuration can be used."},
		{"plugins elsewhere", "plugins:\n  dirs: [plugins]\n  config:\n    other: {}", "", "note: c.yaml:4: plugins.config.other is about a plugin that is not installed here"},
		{"model elsewhere", "gateway:\n  default_model: o1\nplugins: {dirs: [plugins]}", "", `note: c.yaml:2: gateway.default_model = "o1" is served by no plugin installed here`},
		{"everything", "gateway:\n  default_model: gpt-9\n  auth: {mode: keys, keys_file: good.keys}\n" + acme + "limits: {memory: 1MiB}\n      settings: {url: \"https://b.example\"}\n      secrets: {KEY: secret}", "", "The configuration can be used."},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if err := os.WriteFile("c.yaml", []byte(tt.yaml), 0o600); err != nil {
				t.Fatal(err)
			}
			var out, log bytes.Buffer
			err := run(t.Context(), []string{"check", "c.yaml"}, &out, &log)
			switch {
			case tt.err == "" && err != nil:
				t.Errorf("error %v", err)
			case tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)):
				t.Errorf("error lacks %q: %v", tt.err, err)
			case !strings.Contains(out.String(), tt.out):
				t.Errorf("output lacks %q: %s", tt.out, &out)
			case err != nil && strings.Contains(err.Error(), "hunter2"):
				t.Errorf("error shows a secret: %v", err)
			}
		})
	}
	if _, err := os.Stat("data"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("check made a folder: %v", err)
	}
}
