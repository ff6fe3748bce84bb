package sandbox

import (
	"testing"

	"github.com/sluicehq/sluice/host/manifest"
	"github.com/sluicehq/sluice/proto/guest"
	"github.com/sluicehq/sluice/sdk"
	"github.com/sluicehq/sluice/sdk/sdktest"
)

// A guest passes the table that every provider passes.
func TestConformance(t *testing.T) {
	m, err := manifest.Build(t.Context(), "../../plugins/echo/sandbox.yaml", t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if m, err = m.Narrow(manifest.Operator{}); err != nil {
		t.Fatal(err)
	}
	p, _ := load(t, m)
	sdktest.Run(t, p.Provider(), sdktest.Echo("echo-sandbox"))
}

// A chunk may be as large here as on the other wire.
func TestOneLimitOfChunks(t *testing.T) {
	if guest.MaxChunk != sdk.MaxChunk {
		t.Errorf("a guest may emit %d bytes at once, the sdk says %d", guest.MaxChunk, sdk.MaxChunk)
	}
}
