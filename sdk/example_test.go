package sdk_test

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/sluicehq/sluice/sdk"
)

// A provider for an upstream that speaks the common chat dialect: this, and func main() {
// sdk.Main() }, is a whole plugin.
func Example() {
	sdk.Register(sdk.Provider{
		Name: "acme", Version: "1.0.0", Models: []sdk.Model{{Name: "acme-*"}},
		Generate: func(ctx context.Context, req *sdk.Request, emit sdk.Emit) error {
			finished := false
			var malformed sdk.Malformed
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
					return sdk.ErrDone
				}
				if json.Unmarshal(ev.Data, &chunk) != nil {
					return malformed.Pass(ev.Data, "chunks")
				}
				if len(chunk.Choices) > 0 && chunk.Choices[0].Delta.Content != "" {
					return emit(sdk.Text(chunk.Choices[0].Delta.Content))
				}
				return nil
			})
			if err == nil && !finished {
				return sdk.Unfinished()
			}
			return err
		},
	})
}

// Operators write a base with its version or without.
func ExampleBaseURL_Join() {
	for _, setting := range []string{`{}`, `{"base_url":"http://127.0.0.1:8000/v1/"}`, `{"base_url":"https://acme.example/api/v2"}`, `{"base_url":"acme.example"}`} {
		base, err := sdk.Settings(setting).BaseURL("base_url", "https://api.acme.example")
		if err != nil {
			fmt.Println(err)
			continue
		}
		fmt.Println(base.Join("/v1/chat/completions"))
	}
	// Output:
	// https://api.acme.example/v1/chat/completions
	// http://127.0.0.1:8000/v1/chat/completions
	// https://acme.example/api/v2/chat/completions
	// setting base_url "acme.example" is not an http or https URL; write one such as https://api.acme.example
}

// ListModels tells what is known of each model that the upstream names.
func ExampleModelNamed() {
	models := []sdk.Model{{Name: "acme-*", Tools: true}, {Name: "*"}}
	list := func(ctx context.Context, s sdk.Settings) ([]sdk.Model, error) {
		base, err := s.BaseURL("base_url", "https://api.acme.example")
		if err != nil {
			return nil, err
		}
		var names []string
		if err := sdk.DoJSON(ctx, sdk.HTTPRequest{URL: base.Join("/v1/models")}, &names); err != nil {
			return nil, err
		}
		found := make([]sdk.Model, len(names))
		for i, name := range names {
			found[i] = sdk.ModelNamed(models, name)
		}
		return found, nil
	}
	_ = sdk.Provider{Name: "acme", Models: models, ListModels: list} // and Generate
}
