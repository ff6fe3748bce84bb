package host

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Every test that FAULTS.md names exists, and every row names one; and where it
// is decided what goes in, they are all run: nothing there is skipped for want
// of a program, or for being slow.
func TestFaultsAreProven(t *testing.T) {
	table, err := os.ReadFile("FAULTS.md")
	if err != nil {
		t.Fatal(err)
	}
	there := map[string]bool{}
	declared := regexp.MustCompile(`(?m)^func (Test\w+)\(t \*testing\.T\)`)
	err = filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == "node_modules" || d.Name() == "build" || d.Name() == ".git"):
			return filepath.SkipDir
		case !strings.HasSuffix(path, "_test.go"):
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if bytes.HasPrefix(text, []byte("//go:build ")) && !bytes.HasPrefix(text, []byte("//go:build linux\n")) {
			return nil // not built by everybody
		}
		for _, found := range declared.FindAllSubmatch(text, -1) {
			there[string(found[1])] = true
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	rows, named := 0, regexp.MustCompile("`(Test\\w+)`")
	for line := range strings.Lines(string(table)) {
		if !strings.HasPrefix(line, "| ") || strings.HasPrefix(line, "| fault |") {
			continue
		}
		rows++
		tests := named.FindAllStringSubmatch(line, -1)
		if len(tests) == 0 {
			t.Errorf("no test proves: %s", line)
		}
		for _, test := range tests {
			if !there[test[1]] {
				t.Errorf("there is no %s, which is to prove: %.60s", test[1], line)
			}
		}
	}
	if rows < 15 {
		t.Errorf("only %d rows were read", rows)
	}
	for file, want := range map[string]string{
		"../.ci/run":  "export SLUICE_REQUIRE=1",
		"../Makefile": "$$($(GO) list ./... | grep -E '$(HEAVY)')", // what the line before leaves out
	} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(text), want) || strings.Contains(string(text), "-short") {
			t.Errorf("%s doesn't run every test: it has no %q, or has -short", file, want)
		}
	}
}
