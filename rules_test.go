package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/sluicehq/sluice"

// rooms says which of our packages may import which: a package lives in the
// room with the longest matching name, and may import its own room and those
// listed. See DESIGN in README.md, "Where things are".
var rooms = []struct {
	name string
	may  []string
}{
	{"", []string{"config", "host", "gateway"}}, // main
	{"config", nil},
	{"proto/job", nil},
	{"proto/provider", nil},
	{"proto/guest", nil},
	{"sdk", []string{"proto/provider"}},
	{"sdk/sdktest", []string{"sdk", "proto/provider", "proto/guest"}},
	{"host", []string{"sdk", "proto", "config"}},
	{"gateway", []string{"proto/job", "config"}},
	{"plugins", []string{"sdk"}},
	{"examples", []string{"sdk"}},
	{"bench", []string{"sdk", "proto", "config", "host", "gateway"}},
}

// strangers are libraries that only some rooms may know.
var strangers = []struct {
	library string
	rooms   []string
}{
	{"github.com/tetratelabs/wazero", []string{"host", "bench"}},
	{"github.com/hashicorp/go-plugin", []string{"host", "sdk", "proto/provider"}},
	{"google.golang.org/grpc", []string{"host", "sdk", "proto/provider", "bench"}},
	{"github.com/redis/go-redis", []string{"", "config", "host", "gateway", "proto/job", "bench"}},
	{"github.com/hibiken/asynq", []string{"host", "proto/job", "bench"}},
	{"github.com/zishang520", []string{"gateway", "bench"}},
	{"github.com/knadh/koanf", []string{"config"}},
	{"github.com/spf13/pflag", []string{"", "config"}},
	{"github.com/alicebob/miniredis", []string{"host"}},
}

func within(pkg, room string) bool {
	return pkg == room || room != "" && strings.HasPrefix(pkg, room+"/")
}

func roomOf(pkg string) (found int) {
	found = -1
	for i, r := range rooms {
		if within(pkg, r.name) && (found < 0 || len(r.name) > len(rooms[found].name)) {
			found = i
		}
	}
	return found
}

// goPackage is what `go list -json` says about a package.
type goPackage struct {
	ImportPath, Dir, Name    string
	Doc                      string
	Imports                  []string
	GoFiles, TestGoFiles     []string
	IgnoredGoFiles, CgoFiles []string
}

func list(t *testing.T, env ...string) []goPackage {
	t.Helper()
	cmd := exec.Command("go", "list", "-json", "./...")
	cmd.Env = append(os.Environ(), env...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var all []goPackage
	for decoder := json.NewDecoder(bytes.NewReader(out)); decoder.More(); {
		var p goPackage
		if err := decoder.Decode(&p); err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	if len(all) < 5 {
		t.Fatalf("only %d packages", len(all))
	}
	return all
}

func TestWhoMayImportWhom(t *testing.T) {
	for _, platform := range []string{"GOOS=linux GOARCH=amd64", "GOOS=wasip1 GOARCH=wasm"} {
		for _, p := range list(t, strings.Fields(platform)...) {
			pkg := strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, module), "/")
			in := roomOf(pkg)
			if in < 0 {
				t.Errorf("%s is in no room; say in rules_test.go what it may import", p.ImportPath)
				continue
			}
			room := rooms[in]
			for _, imported := range p.Imports {
				if ours, ok := strings.CutPrefix(imported, module+"/"); ok {
					to := roomOf(ours)
					allowed := to == in || slices.ContainsFunc(room.may, func(may string) bool { return within(ours, may) })
					if !allowed {
						t.Errorf("%s imports %s; room %q may import %v", p.ImportPath, imported, room.name, room.may)
					}
					continue
				}
				for _, s := range strangers {
					if within(imported, s.library) && !slices.ContainsFunc(s.rooms, func(r string) bool { return within(pkg, r) }) {
						t.Errorf("%s imports %s, which only %q may know", p.ImportPath, imported, s.rooms)
					}
				}
				if strings.HasPrefix(platform, "GOOS=wasip1") && strings.HasPrefix(pkg, "sdk") && !strings.HasPrefix(pkg, "sdk/sdktest") && strings.Contains(strings.Split(imported, "/")[0], ".") {
					t.Errorf("%s imports %s when built for the sandbox; guests are small because it imports the standard library only", p.ImportPath, imported)
				}
			}
		}
	}
}

// Only one file knows the Socket.IO library.
func TestOneFileKnowsSocketIO(t *testing.T) {
	for _, file := range sources(t, ".go") {
		if strings.HasSuffix(file, "_test.go") || strings.HasPrefix(file, "gateway/engine/") || strings.HasPrefix(file, "bench/") {
			continue
		}
		text := read(t, file)
		if strings.Contains(text, `"github.com/zishang520/socket.io/`) && file != "gateway/socketio.go" {
			t.Errorf("%s imports the Socket.IO library; only gateway/socketio.go may", file)
		}
	}
}

func TestEveryPackageHasADocComment(t *testing.T) {
	for _, p := range list(t) {
		if p.Doc == "" && len(p.GoFiles) > 0 {
			t.Errorf("%s has no package comment", p.ImportPath)
		}
	}
}

// longFiles are over the limit for a reason.
var longFiles = map[string]string{}

func TestNoFileIsTooLong(t *testing.T) {
	for _, file := range sources(t, ".go", ".js", ".mjs", ".css", ".lua", ".proto") {
		limit := 550 // about 500
		if strings.HasSuffix(file, "_test.go") {
			limit = 1050
		}
		text := read(t, file)
		if generated.MatchString(text) || strings.HasSuffix(file, ".min.js") || longFiles[file] != "" {
			continue
		}
		if lines := strings.Count(text, "\n"); lines > limit {
			t.Errorf("%s has %d lines, over %d; cut it along its nouns", file, lines, limit)
		}
	}
}

var generated = regexp.MustCompile(`(?m)^// Code generated .* DO NOT EDIT\.$`)

// unwanted are words that a finished source doesn't hold.
var unwanted = regexp.MustCompile(`\b(TO` + `DO|FIX` + `ME|XX` + `X|HA` + `CK)\b|/wor` + `k/|panic\("not impl`)

// vague are names that say nothing about what is inside.
var vague = []string{"util", "utils", "common", "helper", "helpers", "misc", "types", "models", "base", "shared"}

func TestNothingIsLeftUnsaid(t *testing.T) {
	for _, file := range sources(t, ".go", ".js", ".mjs", ".lua", ".proto", ".md", ".yaml", ".yml", ".css", ".html", "Makefile", ".sh", ".ci/run", ".ci/tools") {
		if strings.HasSuffix(file, ".min.js") {
			continue
		}
		for i, line := range strings.Split(read(t, file), "\n") {
			if found := unwanted.FindString(line); found != "" {
				t.Errorf("%s:%d says %q", file, i+1, found)
			}
		}
	}
	for _, p := range list(t) {
		if slices.Contains(vague, path.Base(p.ImportPath)) {
			t.Errorf("%s: a package is named for what it is", p.ImportPath)
		}
	}
	for _, file := range sources(t, ".go") {
		name := strings.TrimSuffix(strings.TrimSuffix(path.Base(file), ".go"), "_test")
		// gateway/models.go is about the models that are served, not a drawer.
		if slices.Contains(vague, name) && file != "gateway/models.go" {
			t.Errorf("%s: a file is named for what is in it", file)
		}
	}
}

// Committed modules are what the sources beside them compile to.
func TestModulesAreFresh(t *testing.T) {
	tool := need(t, "wat2wasm")
	for _, file := range sources(t, ".wat") {
		module := strings.TrimSuffix(file, ".wat") + ".wasm"
		out := filepath.Join(t.TempDir(), "fresh.wasm")
		if text, err := exec.Command(tool, file, "-o", out).CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, text)
		} else if read(t, module) != read(t, out) {
			t.Errorf("%s is stale; run: wat2wasm %s -o %s", module, file, module)
		}
	}
}

// Waiting a fixed time in a test is either too short or too long.
func TestNoTestSleeps(t *testing.T) {
	for _, file := range sources(t, "_test.go") {
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		fake := strings.Contains(read(t, file), `"testing/synctest"`) // sleeps of fake time cost none
		ast.Inspect(parsed, func(n ast.Node) bool {
			call, ok := n.(*ast.SelectorExpr)
			if !ok || fake {
				return true
			}
			if x, ok := call.X.(*ast.Ident); ok && x.Name == "time" && call.Sel.Name == "Sleep" {
				t.Errorf("%s calls time.Sleep; wait on what happens instead", file)
			}
			return true
		})
	}
}

// The code in README.md is the code in examples/, which is compiled and run.
func TestReadmeShowsTheExamples(t *testing.T) {
	readme := read(t, "README.md")
	for _, file := range []string{"examples/smallest/main.go", "examples/node-client/client.mjs"} {
		if !strings.Contains(readme, strings.TrimSpace(read(t, file))) {
			t.Errorf("README.md doesn't show %s as it is", file)
		}
	}
	for _, link := range regexp.MustCompile(`\]\(([^)#:]+)(#[^)]*)?\)`).FindAllStringSubmatch(readme+read(t, "RATIONALE.md"), -1) {
		if _, err := os.Stat(filepath.FromSlash(link[1])); err != nil {
			t.Errorf("a link leads nowhere: %s", link[1])
		}
	}
	makefile := read(t, "Makefile")
	for _, target := range regexp.MustCompile("`make ([a-z-]+)`").FindAllStringSubmatch(readme, -1) {
		if !strings.Contains(makefile, "\n"+target[1]+":") {
			t.Errorf("README.md speaks of make %s, which the Makefile doesn't know", target[1])
		}
	}
}

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.FromSlash(file))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// sources are the files of the repository with one of the endings.
func sources(t *testing.T, endings ...string) []string {
	t.Helper()
	var all []string
	err := filepath.WalkDir(".", func(file string, entry fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil // removed while we looked
		case err != nil:
			return err
		case entry.IsDir() && (slices.Contains([]string{".git", "node_modules", "build", "data"}, entry.Name())):
			return filepath.SkipDir
		case entry.IsDir():
			return nil
		}
		file = filepath.ToSlash(file)
		if slices.ContainsFunc(endings, func(ending string) bool { return strings.HasSuffix(file, ending) }) {
			all = append(all, file)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}
