// The smallest provider: it answers with the prompt in capitals.
package main

import (
	"context"
	"strings"

	"github.com/sluicehq/sluice/sdk"
)

func init() {
	sdk.Register(sdk.Provider{
		Name:     "shout",
		Version:  "1.0.0",
		Models:   []sdk.Model{{Name: "shout"}},
		Generate: generate,
	})
}

func generate(_ context.Context, req *sdk.Request, emit sdk.Emit) error {
	for word := range strings.FieldsSeq(req.Prompt()) {
		if err := emit(sdk.Text(strings.ToUpper(word) + " ")); err != nil {
			return err // nobody wants the answer any more
		}
	}
	return nil // the answer is whole
}

func main() { sdk.Main() }
