package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// browse runs a script of testdata/node with the page's address, the browser
// and the folder of screenshots, build/screenshots.
func browse(t *testing.T, limit time.Duration, script, url string, args ...string) {
	t.Helper()
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
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, node, append([]string{script, url + "/", browser, screenshots}, args...)...)
	cmd.Dir = "testdata/node"
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%v; see %s\n%s", err, screenshots, out)
	}
	t.Logf("%s", out)
}

// The page in a real browser: models side by side, reload in the middle, two
// tabs, cancel, the keyboard alone, on phone and desktop, light and dark.
func TestPageInABrowser(t *testing.T) {
	in := install(t)
	url := start(t, in, []string{"SLUICE_REDIS__EMBEDDED=auto"}).url
	browse(t, 6*time.Minute, "page.mjs", url, "echo", "echo-sandbox")
}

// Signing in, renewing the token on the live connection, and meeting a limit.
func TestSignInOnThePage(t *testing.T) {
	in := install(t)
	const secret = "a secret of the page's tests, long enough"
	token := func(ends time.Duration) string {
		signed, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{"sub": "ada", "exp": time.Now().Add(ends).Unix()}).SignedString([]byte(secret))
		if err != nil {
			t.Fatal(err)
		}
		return signed
	}
	url := start(t, in, []string{
		"SLUICE_REDIS__EMBEDDED=auto", "SLUICE_GATEWAY__AUTH__MODE=hs256", "SLUICE_GATEWAY__AUTH__SECRET=" + secret,
		"SLUICE_GATEWAY__LIMITS__STARTS_PER_MINUTE=2",
	}).url
	browse(t, 3*time.Minute, "signin.mjs", url, "echo", token(30*time.Second), token(time.Hour))
}
