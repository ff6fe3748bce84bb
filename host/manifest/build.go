package manifest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Build is [Builder.Build] for plugins that aren't scripts.
func Build(ctx context.Context, src, outDir string) (*Manifest, error) {
	return Builder{}.Build(ctx, src, outDir)
}

// Builder builds plugins. The zero value builds all but scripts.
type Builder struct {
	Engine string // file: the module that runs scripts, see examples/guests/javascript
}

// Build makes a loadable plugin directory out of a manifest that lies beside
// its source. When the manifest names a script, the artifact is the engine with
// that script in it; else it is compiled when the source directory holds Go
// files, and copied when it doesn't. The manifest is copied with the digest
// filled in. The plugin built before in outDir is replaced at the end, so a
// failed build leaves it as it was.
func (b Builder) Build(ctx context.Context, src, outDir string) (*Manifest, error) {
	if name := filepath.Base(src); filepath.Ext(name) == ".js" {
		return nil, &Problem{File: src, Message: "is a script", Remedy: "build the manifest beside it instead, with runtime: wasm, artifact: " + strings.TrimSuffix(name, ".js") + ".wasm and script: " + name}
	}
	text, err := readBounded(src, maxFile)
	if err != nil {
		return nil, fmt.Errorf("read manifest: %w", err)
	}
	m, err := parse(src, text)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(outDir, 0o755); err != nil {
		return nil, fmt.Errorf("build plugin %s: %w", m.Name, err)
	}
	tmp, err := os.MkdirTemp(outDir, ".build-*")
	if err != nil {
		return nil, fmt.Errorf("build plugin %s: %w", m.Name, err)
	}
	defer os.RemoveAll(tmp)
	artifact := filepath.Join(tmp, m.Artifact)
	if err := b.makeArtifact(ctx, m, filepath.Dir(src), artifact); err != nil {
		return nil, fmt.Errorf("build plugin %s: %w", m.Name, err)
	}
	built, err := readBounded(artifact, maxArtifact)
	if err != nil {
		return nil, fmt.Errorf("build plugin %s: %w", m.Name, err)
	}
	sum := sha256.Sum256(built)
	if text, err = withDigest(text, hex.EncodeToString(sum[:])); err != nil {
		return nil, fmt.Errorf("build plugin %s: %w", m.Name, err)
	}
	if err := os.WriteFile(filepath.Join(tmp, File), text, 0o644); err != nil {
		return nil, fmt.Errorf("build plugin %s: %w", m.Name, err)
	}
	// The artifact goes first: between the two renames the old manifest names
	// another digest, so a host that looks just then refuses the plugin.
	for _, name := range []string{m.Artifact, File} {
		if err := os.Rename(filepath.Join(tmp, name), filepath.Join(outDir, name)); err != nil {
			return nil, fmt.Errorf("build plugin %s: %w", m.Name, err)
		}
	}
	return Load(outDir)
}

func (b Builder) makeArtifact(ctx context.Context, m *Manifest, srcDir, out string) error {
	if m.Script != "" {
		return guestOfScript(b.Engine, filepath.Join(srcDir, m.Script), out)
	}
	goFiles, err := filepath.Glob(filepath.Join(srcDir, "*.go"))
	if err != nil {
		return err
	}
	if len(goFiles) == 0 {
		artifact, err := readBounded(filepath.Join(srcDir, m.Artifact), maxArtifact)
		if err != nil {
			return err
		}
		mode := os.FileMode(0o755)
		if m.Runtime == Wasm {
			mode = 0o644
		}
		return os.WriteFile(out, artifact, mode)
	}
	if out, err = filepath.Abs(out); err != nil {
		return err
	}
	args := []string{"build", "-trimpath", "-ldflags=-s -w", "-o", out}
	env := os.Environ()
	if m.Runtime == Wasm {
		args = append(args, "-buildmode=c-shared")
		env = append(env, "GOOS=wasip1", "GOARCH=wasm", "CGO_ENABLED=0")
	} else {
		env = append(env, "CGO_ENABLED=0") // a static program runs in any box
	}
	cmd := exec.CommandContext(ctx, "go", append(args, ".")...)
	cmd.Dir, cmd.Env = srcDir, env
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build in %s: %w\n%s", srcDir, err, bytes.TrimSpace(text))
	}
	return nil
}

// withDigest sets sha256 in a manifest's text and keeps its comments.
func withDigest(text []byte, digest string) ([]byte, error) {
	root, err := parseYAML(text)
	if err != nil {
		return nil, err
	}
	set := false
	for i := 0; i+1 < len(root.Content); i += 2 {
		if root.Content[i].Value == "sha256" {
			root.Content[i+1].SetString(digest)
			set = true
		}
	}
	if !set {
		var k, v yaml.Node
		k.SetString("sha256")
		v.SetString(digest)
		root.Content = append(root.Content, &k, &v)
	}
	var buf bytes.Buffer
	enc := yaml.NewEncoder(&buf)
	enc.SetIndent(2)
	if err := enc.Encode(root); err != nil {
		return nil, err
	}
	return buf.Bytes(), enc.Close()
}
