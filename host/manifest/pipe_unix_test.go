//go:build unix

package manifest

import (
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// A pipe in an artifact's place is no artifact, and holds nobody up who reads it.
func TestPipeIsNoArtifact(t *testing.T) {
	pipe := filepath.Join(t.TempDir(), "plugin.wasm")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := readBounded(pipe, maxArtifact); err == nil || !strings.Contains(err.Error(), "is not a file") {
		t.Error(err)
	}
}
