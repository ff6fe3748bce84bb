// Package steady is the provider that the runtimes are measured with. What it
// does is next to nothing, so that what is measured is the way to it.
package steady

import (
	"context"
	"strconv"
	"time"

	"github.com/sluicehq/sluice/sdk"
)

// Text is one chunk.
const Text = sdk.Text("twenty bytes of text")

// Provider serves the models "many", which emits as many chunks as the prompt
// says, and "hold", which emits one and then waits to be cancelled.
var Provider = sdk.Provider{Name: "steady", Version: "1.0.0", Models: []sdk.Model{{Name: "*"}}, Generate: generate}

func generate(ctx context.Context, req *sdk.Request, emit sdk.Emit) error {
	if req.Model == "hold" {
		if err := emit(Text); err != nil {
			return err
		}
		return sdk.Sleep(ctx, time.Hour)
	}
	n, err := strconv.Atoi(req.Prompt())
	if err != nil {
		return err
	}
	for range n {
		if err := emit(Text); err != nil {
			return err
		}
	}
	return nil
}
