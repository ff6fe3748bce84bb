package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// word runs one command line, with plugins and cache in folders of the test.
func word(t *testing.T, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	var out, log bytes.Buffer
	err = run(t.Context(), args, &out, &log)
	return out.String(), log.String(), err
}

func TestPluginWords(t *testing.T) {
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(t.TempDir())
	for name, src := range map[string]string{"echo": "native.yaml", "echo-sandbox": "sandbox.yaml"} {
		out, _, err := word(t, "plugin", "build", filepath.Join(dir, "plugins", "echo", src), filepath.Join("plugins", name))
		if err != nil || !strings.Contains(out, name+" 1.0.0 (") {
			t.Fatalf("build: %q, %v", out, err)
		}
	}
	for name, text := range map[string]string{
		"plugins/broken/plugin.yaml": "name: broken\n", "plugins/no-plugin/README": "", "script.js": "plugin({})",
		"script.yaml": "name: script\nversion: 0.1.0\nprotocol: 1\nruntime: wasm\nartifact: script.wasm\nscript: script.js\nmodels: [{name: script}]\n",
	} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile("sluice.yaml", []byte("plugins:\n  dirs: [plugins]\n  cache_dir: cache\n  config:\n    echo: {limits: {concurrency: 7}, settings: {delay_ms: 1}}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name     string
		args     []string
		out, log []string // parts
		err      string   // part; "" wants none
		usage    bool
	}{
		{name: "list", args: []string{"list"}, out: []string{"NAME", "echo          1.0.0    native", "echo-sandbox  1.0.0    wasm", "concurrency 7", "broken is refused: plugins/broken/plugin.yaml:1: version is missing"}},
		{name: "verify", args: []string{"verify", "plugins/echo"}, out: []string{"digest ", "abilities            check, count tokens, resume", "settings             can be used", "The plugin can be used."}},
		{name: "verify a broken one too", args: []string{"verify", "plugins/echo", "plugins/broken"}, out: []string{"The plugin can be used."}, err: "verify plugins/broken: plugins/broken/plugin.yaml:1: version is missing"},
		{name: "verify nothing", args: []string{"verify", "plugins/no-plugin"}, err: "plugins/no-plugin/plugin.yaml"},
		{name: "run native", args: []string{"run", "plugins/echo", "Hello", "there", "--option", "reasoning=thinking"}, out: []string{"Hello there\n"}, log: []string{"[reasoning {Text:thinking", "[usage {Input:2", "[finish {Reason:stop"}},
		{name: "run sandboxed", args: []string{"run", "plugins/echo-sandbox", "--option", "delay_ms=0", "--option", `tool_call={"name":"look"}`, "Hello"}, out: []string{"Hello\n"}, log: []string{"[toolcall {Index:0 ID:call_1 Name:look"}},
		{name: "run into an error", args: []string{"run", "plugins/echo", "one two", "--option", `error={"kind":"limited","after":1,"message":"slow down"}`}, out: []string{"one"}, err: "limited after 1 chunks: slow down (fault: upstream)"},
		{name: "run another model", args: []string{"run", "plugins/echo", "--model", "gpt-4", "x"}, err: `plugin echo doesn't serve "gpt-4"; it serves echo`},
		{name: "test", args: []string{"test", "plugins/echo"}, out: []string{"ok   plain", "echo 1.0.0 (native): 6 of 6 checks passed"}},
		{name: "test with the table of echo", args: []string{"test", "plugins/echo-sandbox", "--echo"}, out: []string{"ok   cancelled midway", "(wasm): 51 of 51 checks passed"}},
		{name: "test what fails", args: []string{"test", "plugins/echo", "--option", `cut={"after":1}`, "--prompt", "one two"}, out: []string{"FAIL plain", "error {truncated upstream"}, err: "the plugin did not pass"},
		{name: "help", args: []string{"--help"}, out: []string{"sluice plugin verify FOLDER"}},
		{name: "no word", args: nil, err: "write: sluice plugin list, verify, run, test or new", usage: true},
		{name: "other word", args: []string{"lst"}, err: "write: sluice plugin list", usage: true},
		{name: "run without a prompt", args: []string{"run", "plugins/echo"}, err: "write: sluice plugin run FOLDER PROMPT", usage: true},
		{name: "build a script without its engine", args: []string{"build", "script.yaml", "plugins/script"}, err: filepath.Join("examples", "javascript", "engine.wasm") + "\"); make it once"},
		{name: "build a script with another engine", args: []string{"build", "script.yaml", "plugins/script", "--engine", "sluice.yaml"}, err: "sluice.yaml: this is no engine for scripts"},
		{name: "flag of another word", args: []string{"verify", "plugins/echo", "--json"}, err: "--json belongs to sluice plugin list", usage: true},
		{name: "flag of nobody", args: []string{"list", "--jsno"}, err: "jsno", usage: true},
		{name: "option without a value", args: []string{"run", "plugins/echo", "x", "--option", "y"}, err: `--option "y" is not NAME=VALUE`, usage: true},
		{name: "bad configuration", args: []string{"list", "--log.level", "loud"}, err: "log.level"},
	} {
		t.Run(test.name, func(t *testing.T) {
			out, log, err := word(t, append([]string{"plugin"}, test.args...)...)
			var usage *usageError
			switch {
			case test.err == "" && err != nil:
				t.Errorf("error %v\n%s%s", err, out, log)
			case test.err != "" && (err == nil || !strings.Contains(err.Error(), test.err)):
				t.Errorf("error %v, want %s", err, test.err)
			case errors.As(err, &usage) != test.usage:
				t.Errorf("%v is of type %T", err, err)
			}
			for _, part := range test.out {
				if !strings.Contains(out, part) {
					t.Errorf("output lacks %q:\n%s", part, out)
				}
			}
			for _, part := range test.log {
				if !strings.Contains(log, part) {
					t.Errorf("standard error lacks %q:\n%s", part, log)
				}
			}
		})
	}
	out, _, err := word(t, "plugin", "list", "--json")
	if err != nil {
		t.Fatal(err)
	}
	var infos []struct {
		Name, Runtime, State, Digest, Reason string
		Guarantees                           []string
		Limits                               []struct{ Name, Value, Check string }
	}
	if err := json.Unmarshal([]byte(out), &infos); err != nil {
		t.Fatal(err)
	}
	if len(infos) != 3 || infos[0].State != "refused" || infos[1].State != "up" || infos[1].Limits[0].Check == "" || infos[2].Limits[0].Check != "" || len(infos[2].Digest) != 64 {
		t.Errorf("JSON is %s", out)
	}
}

// A new plugin is one whose next steps work as they are printed: it passes its
// test, builds, and answers.
func TestNewPlugin(t *testing.T) {
	in := install(t)
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(t.TempDir())
	sluice := func(args ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), in.binary, args...)
		cmd.Env = append(cleanEnvironment(), "SLUICE_PLUGINS__DIRS=plugins", "SLUICE_PLUGINS__CACHE_DIR=cache")
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	out, err := sluice("plugin", "new", "parrot")
	if err != nil {
		t.Fatalf("%s: %v", out, err)
	}
	// A module of its own is made where there is none, which a folder of the machine's may be in.
	if _, err := os.Stat("parrot/go.mod"); (err == nil) != strings.Contains(out, "go mod tidy") {
		t.Errorf("its module: %v, and it is said: %s", err, out)
	}
	for _, test := range []struct {
		args []string
		err  string
	}{
		{[]string{"parrot"}, "parrot is not empty"},
		{[]string{"Parrot"}, "lower-case letters"},
	} {
		if text, err := sluice(append([]string{"plugin", "new"}, test.args...)...); err == nil || !strings.Contains(text, test.err) {
			t.Errorf("new %v: %v, %s, want %s", test.args, err, text, test.err)
		}
	}
	// As go mod tidy would, but for the module that isn't published: with what this one uses.
	mod, err := os.ReadFile(filepath.Join(here, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	_, requirements, _ := strings.Cut(string(mod), "require")
	sum, err := os.ReadFile(filepath.Join(here, "go.sum"))
	if err != nil {
		t.Fatal(err)
	}
	own := "module parrot\n\ngo 1.26\n\nrequire github.com/sluicehq/sluice v0.0.0\n\nreplace github.com/sluicehq/sluice => " + here + "\n\nrequire" + requirements
	if err := errors.Join(os.WriteFile("parrot/go.mod", []byte(own), 0o600), os.WriteFile("parrot/go.sum", sum, 0o600)); err != nil {
		t.Fatal(err)
	}
	var script []string
	for line := range strings.Lines(out) {
		if step, ok := strings.CutPrefix(line, "  "); ok && !strings.HasPrefix(step, "go mod ") {
			script = append(script, step)
		}
	}
	if len(script) != 5 {
		t.Fatalf("the next steps are %q", script)
	}
	cmd := exec.CommandContext(t.Context(), "sh", "-exc", strings.Join(script, ""))
	cmd.Env = append(cleanEnvironment(), "GOFLAGS=-mod=mod", "GOWORK=off", "GOPROXY=off", "SLUICE_PLUGINS__CACHE_DIR="+in.cache)
	var steps bytes.Buffer
	cmd.Stderr = &steps
	if text, err := cmd.Output(); err != nil || strings.Count(string(text), "Hello\n") != 2 {
		t.Fatalf("its next steps: %v\n%s\n%s", err, text, &steps)
	}
	// Its test is of what is run, and not only of the source.
	cmd = exec.CommandContext(t.Context(), "go", "test", "-v", "-run", "TestConformance/.*/^cancelled_midway", ".")
	cmd.Dir, cmd.Env = "parrot", append(cleanEnvironment(), "GOFLAGS=-mod=mod", "GOWORK=off", "GOPROXY=off")
	text, err := cmd.CombinedOutput()
	for _, kind := range []string{"in_process", "native.yaml", "sandbox.yaml"} {
		if err != nil || !strings.Contains(string(text), "--- PASS: TestConformance/"+kind+"/cancelled_midway") {
			t.Errorf("%s was not tested: %v\n%s", kind, err, text)
		}
	}
	if out, err := sluice("plugin", "build", "parrot/native.yaml", "plugins/native"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if out, err := sluice("plugin", "run", "plugins/native", "Pieces of eight"); err != nil || !strings.Contains(out, "Pieces of eight\n[finish {Reason:stop") {
		t.Errorf("%v\n%s", err, out)
	}
	// In a module there is no other.
	out, err = sluice("plugin", "new", "cockatoo", "parrot/cockatoo")
	if err != nil || strings.Contains(out, "go mod") {
		t.Errorf("%q, %v", out, err)
	}
	if _, err := os.Stat("parrot/cockatoo/go.mod"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a module was made in a module: %v", err)
	}
}

// The next steps of a plugin made with a binary of a clone name that clone, as
// long as its module is nowhere else.
func TestNewPluginOutsideTheClone(t *testing.T) {
	in := install(t)
	clone := t.TempDir()
	outside, err := os.MkdirTemp("/var/tmp", "sluice-test-") // the folder of temporary files may be in a module
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(outside)
	binary := filepath.Join(clone, "build", "sluice")
	if err := errors.Join(os.Mkdir(filepath.Dir(binary), 0o755), os.Link(in.binary, binary),
		os.WriteFile(filepath.Join(clone, "go.mod"), []byte("module github.com/sluicehq/sluice\n\ngo 1.26\n"), 0o600)); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), binary, "plugin", "new", "parrot")
	cmd.Dir, cmd.Env = outside, cleanEnvironment()
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "-replace github.com/sluicehq/sluice="+clone+"\n  go mod tidy\n") {
		t.Errorf("%v\n%s", err, out)
	}
}
