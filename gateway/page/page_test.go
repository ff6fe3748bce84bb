package page

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The logic behind the page is tested where it runs: in JavaScript.
func TestJobLogic(t *testing.T) {
	node, err := exec.LookPath("node")
	if err != nil {
		t.Fatal("this test needs Node 20 or later: https://nodejs.org")
	}
	dir := t.TempDir()
	for from, to := range map[string]string{"job.js": "job.mjs", "job_test.mjs": "job_test.mjs"} {
		b, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, to), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(node, "--test", "job_test.mjs")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "JOB_JS="+filepath.Join(dir, "job.mjs"))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// The page shows what strangers wrote, so nothing of it may become markup, and
// it asks nothing of any other server.
func TestNoMarkupFromText(t *testing.T) {
	for _, name := range []string{"app.js", "answer.js", "job.js", "markdown.js"} {
		b, err := files.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, sink := range []string{"innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function", "srcdoc", "fetch(", "XMLHttpRequest"} {
			if strings.Contains(string(b), sink) {
				t.Errorf("%s uses %s", name, sink)
			}
		}
	}
}
