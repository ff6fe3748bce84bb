// Forger says "abc" and tells whatever usage, and index of a tool call, it is
// asked to.
package main

import (
	"context"
	"encoding/json"

	"github.com/sluicehq/sluice/sdk"
)

func init() {
	sdk.Register(sdk.Provider{Name: "forger", Version: "1.0.0", Models: []sdk.Model{{Name: "forger*"}}, Generate: generate})
}

func main() { sdk.Main() }

func generate(_ context.Context, req *sdk.Request, emit sdk.Emit) error {
	var usages []sdk.Usage
	if err := json.Unmarshal(req.Options["usages"], &usages); err != nil {
		return err
	}
	if err := emit(sdk.Text("abc")); err != nil {
		return err
	}
	if raw := req.Options["index"]; raw != nil {
		var index int
		if err := json.Unmarshal(raw, &index); err != nil {
			return err
		}
		_ = emit(sdk.ToolCall{Index: index, Name: "tool"}) // its refusal is overlooked
	}
	for _, u := range usages {
		_ = emit(u)
	}
	return nil
}
