package config

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
)

// compareSecrets lets cmp look into values that hide themselves.
var compareSecrets = cmp.AllowUnexported(Secret{}, URL{})

func write(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "sluice.yaml")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func parse(t *testing.T, args ...string) *pflag.FlagSet {
	t.Helper()
	flags := pflag.NewFlagSet("sluice", pflag.ContinueOnError)
	AddFlags(flags)
	if err := flags.Parse(args); err != nil {
		t.Fatal(err)
	}
	return flags
}

func TestDefaultIsValid(t *testing.T) {
	if err := Default().Validate(); err != nil {
		t.Fatal(err)
	}
	t.Chdir(t.TempDir()) // no sluice.yaml here
	c, err := Load(Sources{})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Default(), c, compareSecrets); diff != "" {
		t.Errorf("loaded from nothing (-default +loaded):\n%s", diff)
	}
}

func TestLayersInOrder(t *testing.T) {
	path := write(t, `
gateway:
  addr: 127.0.0.1:1
  path: /file/
  default_model: file
  limits: {query: 1KiB}
`)
	c, err := Load(Sources{
		File:    path,
		Environ: []string{"SLUICE_GATEWAY__PATH=/env/", "SLUICE_GATEWAY__DEFAULT_MODEL=env", "SLUICE_GATEWAY__PAGE=false", "SLUICE_SERVICE_HOST=10.0.0.1", "OTHER=1"},
		Flags:   parse(t, "--gateway.default_model=flag", "--host.coalesce", "40ms"),
	})
	if err != nil {
		t.Fatal(err)
	}
	want := Default()
	want.Gateway.Addr = "127.0.0.1:1"
	want.Gateway.Path = "/env/"
	want.Gateway.DefaultModel = "flag"
	want.Gateway.Page = false
	want.Gateway.Limits.Query = KiB
	want.Host.Coalesce = 40 * time.Millisecond
	if diff := cmp.Diff(want, c, compareSecrets); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestFileIsFound(t *testing.T) {
	path := write(t, "host: {id: one}")
	t.Chdir(filepath.Dir(path))
	for name, from := range map[string]Sources{
		"working folder": {},
		"named":          {File: path},
		"flag":           {Flags: parse(t, "--config", path)},
		"environment":    {Environ: []string{"SLUICE_CONFIG=" + path}},
	} {
		c, err := Load(from)
		if err != nil || c.Host.ID != "one" {
			t.Errorf("%s: id %q, error %v", name, c.Host.ID, err)
		}
	}
	if _, err := Load(Sources{File: path + ".not"}); err == nil || !strings.Contains(err.Error(), path+".not") {
		t.Errorf("a named file that doesn't exist: %v", err)
	}
}

func TestPlugins(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(secret, []byte("from a file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	path := write(t, `
plugins:
  dirs: [/opt/plugins]
  config:
    open-ai:
      secrets: {OPENAI_API_KEY: "env:KEY", other: "file:`+secret+`", told: "cmd:cat `+secret+`", literal: "12345"}
      settings: {base_url: "https://example.com", "dotted.name": {deep: [1, 2]}}
      egress: ["https://api.example.com"]
      allow_private: ["localhost:8080"]
      limits: {memory: 64MiB, total: 5m, cpu: 10s, open_requests: 2, request_body: 1MiB, response_body: 2MiB}
    echo: {disabled: true}
`)
	c, err := Load(Sources{File: path, Environ: []string{
		"KEY=from the environment",
		"SLUICE_PLUGINS__CONFIG__OPEN_AI__SETTINGS__RETRIES=3",
		"SLUICE_PLUGINS__CONFIG__OPEN_AI__SECRETS__Extra=more",
	}})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]Plugin{
		"open-ai": {
			Secrets: map[string]Secret{
				"OPENAI_API_KEY": {"from the environment", "env:KEY"}, "other": {"from a file", "file:" + secret},
				"told":    {"from a file", "cmd:cat " + secret},
				"literal": NewSecret("12345"), "Extra": NewSecret("more"),
			},
			Settings: map[string]any{
				"base_url": "https://example.com", "dotted.name": map[string]any{"deep": []any{1, 2}}, "retries": 3,
			},
			Egress:       []string{"https://api.example.com"},
			AllowPrivate: []string{"localhost:8080"},
			Limits:       PluginLimits{Memory: 64 * MiB, Total: 5 * time.Minute, CPU: 10 * time.Second, OpenRequests: 2, RequestBody: MiB, ResponseBody: 2 * MiB},
		},
		"echo": {Disabled: true},
	}
	if diff := cmp.Diff(want, c.Plugins.Config, compareSecrets); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestBadFiles(t *testing.T) {
	tests := []struct {
		name, file string
		want       []string // parts of the error; FILE stands for the file's path
	}{
		{"unknown key, near", "gateway:\n  adr: x\n", []string{"FILE:2: gateway.adr is not a setting", "did you mean gateway.addr?"}},
		{"unknown key, other section", "gateway:\n  coalesce: 1ms\n", []string{"FILE:2: gateway.coalesce is not a setting", "did you mean host.coalesce?"}},
		{"unknown key, nothing near", "gateway:\n  zzzzzzzzzzzz: 1\n", []string{"gateway.zzzzzzzzzzzz is not a setting; gateway has addr, path"}},
		{"unknown section", "gatway:\n  addr: x\n", []string{"FILE:1: gatway is not a setting", "did you mean gateway?"}},
		{"dotted key", "gateway.addr: x\n", []string{"FILE:1: gateway.addr is not a setting: nest it"}},
		{"hyphen", "host:\n  max-attempts: 3\n", []string{"did you mean host.max_attempts?"}},
		{"section is a value", "gateway: 5\n", []string{`FILE:1: gateway = "5" is a section`}},
		{"value is a section", "log:\n  level: {a: b}\n", []string{"FILE:2: log.level is a single value, and not a section; write it behind the colon"}},
		{"value is a list", "host:\n  grace: [1s]\n", []string{"FILE:2: host.grace is a single value, and not a list"}},
		{"secret is a list", "redis:\n  password: [hunter2]\n", []string{"FILE:2: redis.password is a single value, and not a list"}},
		{"section is a list", "host: [1s]\n", []string{"FILE:1: host is a section, and not a list: its keys are "}},
		{"list of sections", "gateway:\n  origins: [{a: b}]\n", []string{"FILE:2: gateway.origins is a list of texts, and not a section"}},
		{"duration without unit", "host:\n  grace: 30\n", []string{`FILE:2: host.grace = "30" is not a duration; write a number with its unit`}},
		{"size", "gateway:\n  limits:\n    query: 4 apples\n", []string{`FILE:3: gateway.limits.query = "4 apples" is not a size`}},
		{"bool", "gateway:\n  page: yes please\n", []string{`FILE:2: gateway.page = "yes please" is neither true nor false`}},
		{"int", "host:\n  concurrency: many\n", []string{`FILE:2: host.concurrency = "many" is not a whole number`}},
		{"number as text", "redis:\n  password: 0123454321\n", []string{"FILE:2: redis.password is not text; put it in quotes"}},
		{"list", "gateway:\n  origins: {a: b}\n", []string{"FILE:2: gateway.origins is a list, and not a section; write [one, two]"}},
		{"range", "host:\n  concurrency: 0\n", []string{`FILE:2: host.concurrency = "0" is out of range: 1 to 100000`}},
		{"a command that fails", "redis:\n  password: cmd:false\n", []string{"FILE:2: redis.password can't be read: command false: exit status 1"}},
		{"a command that says nothing", "redis:\n  password: cmd:true\n", []string{"redis.password can't be read: command true printed nothing"}},
		{"no command", "redis:\n  password: 'cmd: '\n", []string{"redis.password can't be read: the command is empty"}},
		{"limits", "plugins:\n  config:\n    a:\n      limits: {cpu: -1s, open_requests: 9999, request_body: 2GiB, response_body: 100GiB}\n",
			[]string{"limits.cpu", "limits.open_requests", "limits.request_body", "limits.response_body", "is out of range"}},
		{"choice", "log:\n  level: loud\n", []string{`FILE:2: log.level = "loud" is not debug, info, warn or error`}},
		{"address", "gateway:\n  addr: localhost\n", []string{`FILE:2: gateway.addr = "localhost" is not host:port`}},
		{"host's address", "host:\n  addr: here\n", []string{`FILE:2: host.addr = "here" is not host:port`}},
		{"public without auth", "gateway:\n  addr: 0.0.0.0:3210\n", []string{"FILE:2: gateway.addr", "gateway.auth.mode is none"}},
		{"public without auth, every address", "gateway:\n  addr: :3210\n", []string{"gateway.addr", "gateway.auth.mode is none"}},
		{"origin", "gateway:\n  origins: [example.com]\n", []string{`gateway.origins = "example.com" is not an origin`}},
		{"origin with a slash", "gateway:\n  origins: [https://example.com/]\n", []string{`gateway.origins = "https://example.com/" is not as browsers send it; write https://example.com`}},
		{"origin in capitals, with its scheme's port", "gateway:\n  origins: [HTTPS://Example.com:443]\n", []string{`"HTTPS://Example.com:443" is not as browsers send it; write https://example.com`}},
		{"origin with a path", "gateway:\n  origins: [https://example.com/a]\n", []string{`"https://example.com/a" is not an origin`}},
		{"short secret", "gateway:\n  auth: {mode: hs256, secret: hunter2}\n", []string{"FILE:2: gateway.auth.secret is shorter than 32 bytes"}},
		{"no secret", "gateway:\n  auth: {mode: hs256}\n", []string{"gateway.auth.secret is shorter than 32 bytes"}},
		{"jwks", "gateway:\n  auth: {mode: jwt, jwks_url: http://example.com/keys}\n", []string{"gateway.auth.jwks_url", "https://"}},
		{"proxy", "gateway:\n  proxies: [10.0.0.0/8, proxy.example.com]\n", []string{`gateway.proxies = "proxy.example.com" is neither an address nor a network`}},
		{"keys without a file", "gateway:\n  auth: {mode: keys}\n", []string{`gateway.auth.keys_file`, `needs the file of API keys`}},
		{"keys beside an open door", "gateway:\n  auth: {keys_file: keys}\n", []string{`gateway.auth.keys_file = "keys" has no use while gateway.auth.mode is none`}},
		{"secret beside an open door", "gateway:\n  auth: {secret: hunter2hunter2hunter2hunter2hunter2}\n", []string{`gateway.auth.secret has no use while gateway.auth.mode is none`, "hs256"}},
		{"public keys beside an open door", "gateway:\n  auth: {jwks_url: https://example.com/keys}\n", []string{`gateway.auth.jwks_url = "https://example.com/keys" has no use while gateway.auth.mode is none`, "jwt"}},
		{"path", "gateway:\n  path: socket.io\n", []string{`FILE:2: gateway.path = "socket.io" is not a path below the root`}},
		{"path with a pattern", "gateway:\n  path: /{a}/\n", []string{`gateway.path = "/{a}/" is not a path below the root`}},
		{"path with two slashes", "gateway:\n  path: //a/\n", []string{`gateway.path = "//a/" is not a path below the root`}},
		{"path that is taken", "gateway:\n  path: /healthz\n", []string{`gateway.path = "/healthz" is where the gateway serves other things`}},
		{"path without an end", "gateway:\n  path: /ws\n", []string{`gateway.path = "/ws" does not end with the one / that clients ask with; write /ws/`}},
		{"query over request", "gateway:\n  limits: {query: 8MiB}\n", []string{`gateway.limits.query = "8MiB" is larger than gateway.limits.request (4MiB)`}},
		{"backoff", "host:\n  backoff: {min: 1m}\n", []string{`host.backoff.min = "1m" is longer than host.backoff.max (30s)`}},
		{"plugin name", "plugins:\n  config:\n    \"../x\": {disabled: true}\n", []string{"FILE:3: plugins.config.../x is not a plugin's name"}},
		{"plugin key", "plugins:\n  config:\n    echo: {setings: {}}\n", []string{"did you mean plugins.config.echo.settings?"}},
		{"missing variable", "plugins:\n  config:\n    echo: {secrets: {k: \"env:NOT_SET\"}}\n", []string{"plugins.config.echo.secrets.k can't be read: the environment variable NOT_SET is not set"}},
		{"pool", "redis:\n  pool_size: 3\n", []string{"redis.pool_size", "at least 10"}},
		{"redis url", "redis:\n  url: localhost:6379\n", []string{"FILE:2: redis.url", "is not a Redis address"}},
		{"two problems", "log: {level: loud, format: xml}\n", []string{"log.level", "log.format"}},
		{"not a mapping", "- a\n- b\n", []string{"FILE:1: not made of sections"}},
		{"two documents", "log: {}\n---\nlog: {}\n", []string{"more than one YAML document"}},
		{"duplicate", "log: {}\nlog: {}\n", []string{"FILE", "already defined at line 1"}},
		{"broken YAML", "log: [\n", []string{"FILE", "line"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := write(t, tt.file)
			_, err := Load(Sources{File: path})
			if err == nil {
				t.Fatal("no error")
			}
			for _, want := range tt.want {
				if want = strings.ReplaceAll(want, "FILE", path); !strings.Contains(err.Error(), want) {
					t.Errorf("error lacks %q:\n%v", want, err)
				}
			}
			if strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "0123454321") {
				t.Errorf("error shows a secret: %v", err)
			}
		})
	}
}

func TestBadEnvironmentAndFlags(t *testing.T) {
	t.Chdir(t.TempDir())
	tests := []struct {
		name, env, want string
		args            []string
	}{
		{name: "value", env: "SLUICE_HOST__GRACE=soon", want: `SLUICE_HOST__GRACE: host.grace = "soon" is not a duration`},
		{name: "unknown", env: "SLUICE_HOST__GRACY=1s", want: "SLUICE_HOST__GRACY: host.gracy is not a setting; did you mean host.grace?"},
		{name: "one underscore", env: "SLUICE_GATEWAY_ADDR=:1", want: "SLUICE_GATEWAY_ADDR is not read; write SLUICE_GATEWAY__ADDR"},
		{name: "section", env: "SLUICE_GATEWAY__LIMITS=1", want: "SLUICE_GATEWAY__LIMITS: gateway.limits"},
		{name: "flag", args: []string{"--host.concurrency=x"}, want: `--host.concurrency: host.concurrency = "x" is not a whole number`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Load(Sources{Environ: []string{tt.env}, Flags: parse(t, tt.args...)})
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error lacks %q: %v", tt.want, err)
			}
		})
	}
	_, err := Load(Sources{Environ: []string{"SLUICE_GATEWAY__LIMITS=1", "SLUICE_GATEWAY__LIMITS__QUERY=1", "SLUICE_LOG__LEVEL=info", "SLUICE_log__level=info"}})
	if err == nil {
		t.Error("two variables about the same key: no error")
	}
}

func TestSecretsHaveNoFlag(t *testing.T) {
	flags := parse(t)
	for _, k := range Keys() {
		if k.Secret && flags.Lookup(k.Name) != nil {
			t.Errorf("--%s would show a secret in the process list", k.Name)
		}
		if k.Help == "" {
			t.Errorf("%s has no help text", k.Name)
		}
	}
}

// Every key must be decodable from the environment: a kind of field that the
// decoder doesn't know would be caught here.
func TestEveryKeyDecodes(t *testing.T) {
	for _, k := range Keys() {
		name := strings.ReplaceAll(k.Name, perPlugin, "echo")
		value := k.Default
		switch k.kind.Kind() {
		case reflect.Map:
			name, value = name+".x", "1"
		case reflect.Bool, reflect.Int, reflect.Int64:
			if value == "" {
				value = "0"
			}
		}
		if k.kind == reflect.TypeFor[bool]() && value == "0" {
			value = "false"
		}
		env := envPrefix + strings.ToUpper(strings.ReplaceAll(name, ".", "__")) + "=" + value
		t.Chdir(t.TempDir())
		if _, err := Load(Sources{Environ: []string{env}}); err != nil {
			t.Errorf("%s: %v", env, err)
		}
	}
}

func FuzzLoad(f *testing.F) {
	f.Add([]byte("gateway: {addr: 127.0.0.1:0}"), "GATEWAY__ADDR", "x", "host.grace", "1s")
	f.Add([]byte("plugins: {config: {a: {settings: {b: [1, {c: d}]}}}}"), "PLUGINS__CONFIG__A__SETTINGS__B", "[1]", "log.level", "debug")
	f.Add([]byte("a: &a [1]\nb: *a\n<<: {c: 1}\n? {x: y}\n: z"), "REDIS__URL", "redis://u:p@h:1/2", "redis.url", "unix:///x")
	f.Add([]byte("redis: {url: 'redis-sentinel://a,b/m/3?db=1'}"), "A__B__C", "1", "gateway.limits.query", "9223372036854775807GiB")
	f.Add([]byte("host:\n  grace: 1e400\n  ttl: .inf\n  concurrency: 99999999999999999999"), "LOG__LEVEL__X", "\x00", "x", "")
	f.Fuzz(func(t *testing.T, file []byte, env, envValue, flag, flagValue string) {
		flags := pflag.NewFlagSet("sluice", pflag.ContinueOnError)
		AddFlags(flags)
		_ = flags.Set(flag, flagValue)
		c, _, err := load("f.yaml", file, map[string]string{"SLUICE_" + env: envValue}, flags)
		if err != nil {
			return
		}
		if err := c.Validate(); err != nil {
			t.Fatalf("loaded, but not valid: %v", err)
		}
		if !c.Redis.URL.IsZero() && c.Redis.TLS == (TLS{}) {
			if _, err := c.Redis.Options(); err != nil {
				t.Fatalf("valid, but no client: %v", err)
			}
		}
	})
}

func TestChanged(t *testing.T) {
	a, b := Default(), Default()
	if keys := Changed(a, b); len(keys) > 0 {
		t.Errorf("equal ones differ in %v", keys)
	}
	a.Plugins.Config = map[string]Plugin{"gone": {Disabled: true}, "same": {Egress: []string{"https://a"}}, "echo": {Secrets: map[string]Secret{"K": NewSecret("a")}}}
	b.Plugins.Config = map[string]Plugin{"new": {Disabled: true}, "same": {Egress: []string{"https://a"}}, "echo": {Secrets: map[string]Secret{"K": NewSecret("b")}}}
	b.Gateway.Limits.Query++
	b.Gateway.Auth.Secret = NewSecret("x")
	b.Redis.URL = NewURL("redis://h")
	want := "redis.url gateway.limits.query gateway.auth.secret plugins.config.echo plugins.config.gone plugins.config.new"
	if got := strings.Join(Changed(a, b), " "); got != want {
		t.Errorf("%s, want %s", got, want)
	}
}
