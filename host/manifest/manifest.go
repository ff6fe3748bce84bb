// Package manifest reads, checks, narrows and builds plugins as they lie on
// disk: a directory with a plugin.yaml and the artifact it describes.
//
// A manifest is a request for rights, written by the plugin's author. What a
// plugin may really do is the manifest narrowed by the operator's
// configuration, see [Manifest.Narrow].
package manifest

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
)

// File is the manifest's name inside a plugin directory.
const File = "plugin.yaml"

// Protocol is the version of the plugin wires this host speaks: the go-plugin
// protocol version on the native side, the ABI's major version in the sandbox.
const Protocol = 1

// maxFile bounds a manifest, maxArtifact an artifact, in bytes.
const (
	maxFile     = 256 << 10
	maxArtifact = 512 << 20
)

// Runtime says how an artifact is run.
type Runtime string

// The two runtimes.
const (
	Native Runtime = "native" // a child process
	Wasm   Runtime = "wasm"   // a guest in the sandbox
)

// Manifest is one plugin as its author describes it. The zero value is not
// valid; get one from [Load], [Parse] or [Build]. It is not modified once
// loaded, so it may be shared between goroutines.
type Manifest struct {
	Name        string
	Version     string
	Description string
	Protocol    int
	Runtime     Runtime
	Artifact    string   // a file name in Dir
	Script      string   // what the artifact is built from, a file name beside the source's manifest; "" if not from a script
	SHA256      string   // of the artifact, lower-case hex
	Env         []string // variables of the host's environment that a native plugin sees
	Files       []string // absolute paths that a native plugin may read
	Models      []Model
	Further     *Model // what models can do that the operator names besides; nil: there are none
	Egress      []Origin
	Secrets     []Secret
	Settings    *Schema // never nil
	Limits      Limits

	// Dir is where the manifest was found, empty for a parsed one.
	Dir string
	// Config is the settings object in force: the operator's values over the
	// schema's defaults. Never nil.
	Config json.RawMessage
	// AllowPrivate holds the hosts the operator lets resolve to private,
	// loopback or link-local addresses. Only Narrow fills it.
	AllowPrivate []string

	egress []string // as written, ${setting:…} unresolved
	bound  map[string][]string
}

// Model is a model name, or a glob of names, and what it can do.
type Model struct {
	Name          string `json:"name"`
	Tools         bool   `json:"tools"`
	Vision        bool   `json:"vision"`
	JSON          bool   `json:"json"`
	Reasoning     bool   `json:"reasoning"`
	Continue      bool   `json:"continue"`
	ContextTokens int    `json:"context_tokens"`
	OutputTokens  int    `json:"output_tokens"`
}

// Secret is a credential the host sends on the plugin's behalf. The plugin
// writes ${secret:NAME} into a header; the host puts the value in its place
// when the header and the origin are the ones named here.
type Secret struct {
	Name     string
	From     string // reference: env:NAME, file:/path or cmd:program args
	Origins  []Origin
	Header   string // canonical form
	Optional bool   // without a value the header is left out
}

// Limits bound one plugin. Zero means the default.
type Limits struct {
	Memory       int64         // bytes of one instance or process
	Concurrency  int           // jobs at once
	Processes    int           // that share the jobs, native only
	CPU          time.Duration // of one job, wasm only
	FirstToken   time.Duration // from the start of an attempt to its first chunk
	Idle         time.Duration // between two chunks
	Total        time.Duration // of one attempt
	Output       int64         // bytes emitted by one attempt
	OpenRequests int           // HTTP requests of one job at once
	RequestBody  int64         // bytes of one HTTP request
	ResponseBody int64         // bytes of one HTTP response
}

// Defaults are the limits in force where a manifest names none.
func Defaults() Limits {
	return Limits{
		Memory: 256 << 20, Concurrency: 256, Processes: 1, CPU: 30 * time.Second,
		FirstToken: 2 * time.Minute, Idle: 2 * time.Minute, Total: 30 * time.Minute,
		Output: 16 << 20, OpenRequests: 4, RequestBody: 32 << 20, ResponseBody: 256 << 20,
	}
}

// ErrDigest is in the chain of the error for an artifact that isn't the one
// the manifest names.
var ErrDigest = errors.New("artifact digest differs from the manifest")

// Load reads dir/plugin.yaml, checks it and the artifact's digest. The error
// names file, line, field, value and remedy.
func Load(dir string) (*Manifest, error) {
	path := filepath.Join(dir, File)
	b, err := readBounded(path, maxFile)
	if err != nil {
		return nil, fmt.Errorf("read manifest: %w", err)
	}
	m, err := parse(path, b)
	if err != nil {
		return nil, err
	}
	if m.SHA256 == "" {
		return nil, &Problem{File: path, Field: "sha256", Message: "is missing", Remedy: "build the plugin with: sluice plugin build <source> <dir>"}
	}
	m.Dir = dir
	f, err := os.Open(m.Path())
	if err != nil {
		return nil, &Problem{File: path, Field: "artifact", Value: m.Artifact, Message: err.Error(), Remedy: "put the artifact beside the manifest"}
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, io.LimitReader(f, maxArtifact)); err != nil {
		return nil, fmt.Errorf("hash artifact of plugin %s: %w", m.Name, err)
	}
	if err := m.checkDigest(h.Sum(nil)); err != nil {
		return nil, err
	}
	return m, nil
}

// Path is where the artifact lies. What is run must be hashed on the very
// bytes that run, see [Manifest.Read].
func (m *Manifest) Path() string { return filepath.Join(m.Dir, m.Artifact) }

// Read returns the artifact's bytes after checking them against the digest, so
// that a file swapped after Load isn't taken.
func (m *Manifest) Read() ([]byte, error) {
	b, err := readBounded(m.Path(), maxArtifact)
	if err != nil {
		return nil, fmt.Errorf("read artifact of plugin %s: %w", m.Name, err)
	}
	sum := sha256.Sum256(b)
	if err := m.checkDigest(sum[:]); err != nil {
		return nil, err
	}
	return b, nil
}

func (m *Manifest) checkDigest(sum []byte) error {
	if got := hex.EncodeToString(sum); got != m.SHA256 {
		return fmt.Errorf("plugin %s, %s: has %s, manifest says %s: %w", m.Name, m.Path(), got, m.SHA256, ErrDigest)
	}
	return nil
}

func readBounded(path string, limit int64) ([]byte, error) {
	// What isn't a file is not opened at all: a pipe would have us wait for its other end.
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a file", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var buf bytes.Buffer
	n, err := io.Copy(&buf, io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if n > limit {
		return nil, fmt.Errorf("%s is larger than %d bytes", path, limit)
	}
	return buf.Bytes(), nil
}
