package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// The page in a real browser: ask, watch it stream, reload in the middle,
// cancel. What it looked like is kept in build/.
func TestPageInABrowser(t *testing.T) {
	in := install(t)
	node, browser := need(t, "node"), need(t, "chromium")
	if _, err := os.Stat("testdata/node/node_modules/playwright-core"); err != nil && !required() {
		t.Skip("testdata/node has no node_modules; run: npm ci --prefix testdata/node")
	}
	screenshots, err := filepath.Abs("build/screenshots")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(screenshots, 0o755); err != nil {
		t.Fatal(err)
	}
	url := start(t, in, []string{"SLUICE_REDIS__EMBEDDED=auto"}).url
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, node, "page.mjs", url+"/", browser, screenshots, "echo", "echo-sandbox")
	cmd.Dir = "testdata/node"
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%v; see %s\n%s", err, screenshots, out)
	}
	t.Logf("%s", out)
}
