package main

import (
	"strings"
	"testing"

	"github.com/sluicehq/sluice/host/plugintest"
	"github.com/sluicehq/sluice/sdk/sdktest"
)

// In process, as a process and as a guest.
func TestConformance(t *testing.T) { plugintest.Run(t, provider, sdktest.Echo) }

func TestSplitKeepsEverything(t *testing.T) {
	for text, want := range map[string]int{
		"": 0, "a": 1, " a": 1, "a b": 2, " a\n\tb  ": 3, "   ": 1, "日本 語": 2,
	} {
		words := split(text)
		if got := strings.Join(words, ""); got != text || len(words) != want {
			t.Errorf("split(%q) = %q, want %d words that make the text", text, words, want)
		}
	}
}
