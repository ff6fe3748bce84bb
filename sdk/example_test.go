package sdk_test

import (
	"context"
	"encoding/json"

	"github.com/sluicehq/sluice/sdk"
)

// A provider for an upstream that speaks the common chat dialect: this, and func main() {
// sdk.Main() }, is a whole plugin.
func Example() {
	sdk.Register(sdk.Provider{
		Name: "acme", Version: "1.0.0", Models: []sdk.Model{{Name: "acme-*"}},
		Generate: func(ctx context.Context, req *sdk.Request, emit sdk.Emit) error {
			finished := false
			err := sdk.PostSSE(ctx, sdk.HTTPRequest{
				URL:    "https://api.acme.example/v1/chat/completions",
				Header: sdk.Header{"Authorization": "Bearer ${secret:ACME_API_KEY}"},
				Body: sdk.JSON(map[string]any{"model": req.Model, "stream": true, "messages": []any{
					map[string]string{"role": "user", "content": req.Prompt()}}}),
			}, func(ev sdk.Event) error {
				var chunk struct {
					Choices []struct{ Delta struct{ Content string } }
				}
				if string(ev.Data) == "[DONE]" {
					finished = true
				} else if json.Unmarshal(ev.Data, &chunk) == nil && len(chunk.Choices) > 0 && chunk.Choices[0].Delta.Content != "" {
					return emit(sdk.Text(chunk.Choices[0].Delta.Content))
				}
				return nil
			})
			if err == nil && !finished {
				err = sdk.Errorf(sdk.Truncated, "the stream ended without its end marker")
			}
			return err
		},
	})
}
