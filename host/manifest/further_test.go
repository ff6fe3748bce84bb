package manifest

import (
	"slices"
	"strings"
	"testing"
)

// The operator may name further models where the manifest says that there are others, and nowhere
// else; no right comes with a name.
func TestFurtherModels(t *testing.T) {
	const head = "name: x\nversion: 1.0.0\nprotocol: 1\nruntime: wasm\nartifact: a.wasm\nmodels: [{name: \"gpt-*\", vision: true}, {name: own}]\negress: [\"https://a.example\"]\n"
	open, closed := head+"further_models: {tools: true, context_tokens: 8000}\n", head
	for _, test := range []struct {
		manifest string
		names    []string
		want     []Model // besides the manifest's
		err      string
	}{
		{open, nil, nil, ""},
		{open, []string{"llama-3", "qwen*"}, []Model{{Name: "llama-3", Tools: true, ContextTokens: 8000}, {Name: "qwen*", Tools: true, ContextTokens: 8000}}, ""},
		{open, []string{"own", "gpt-*"}, nil, ""},
		{open, []string{"gpt-9"}, []Model{{Name: "gpt-9", Vision: true}}, ""},
		{closed, []string{"gpt-9"}, []Model{{Name: "gpt-9", Vision: true}}, ""},
		{closed, []string{"llama-3"}, nil, `models "llama-3" is not a model of the plugin's manifest, which has no further_models`},
		{open, []string{"two words"}, nil, "is no name of a model"},
		{open, []string{""}, nil, "is no name of a model"},
	} {
		m, err := Parse([]byte(test.manifest))
		if err != nil {
			t.Fatal(err)
		}
		n, err := m.Narrow(Operator{Models: test.names})
		if test.err != "" {
			if err == nil || !strings.Contains(err.Error(), test.err) {
				t.Errorf("%q: error %v, want %s", test.names, err, test.err)
			}
			continue
		}
		if err != nil || !slices.Equal(n.Models, append(slices.Clone(m.Models), test.want...)) {
			t.Errorf("%q: %+v, %v; want %+v besides", test.names, n, err, test.want)
			continue
		}
		if len(n.Egress) != 1 || n.Limits != m.Limits || len(m.Models) != 2 {
			t.Errorf("%q changes more than the models: %+v", test.names, n)
		}
	}
	if _, err := Parse([]byte(head + "further_models: {name: x}\n")); err == nil || !strings.Contains(err.Error(), "further_models.name is not a known key") {
		t.Errorf("error %v, want that further models have no name", err)
	}
}
