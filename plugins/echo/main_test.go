package main

import (
	"slices"
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

// An answer goes on behind any prefix of it, and only behind one.
func TestAfter(t *testing.T) {
	s := script{words: split("wörd by word"), n: 8}
	all := collect(t, s, "")
	whole := strings.Join(all, "")
	if want := "wörd by word wörd by word wörd by"; whole != want || len(all) != 8 {
		t.Fatalf("%q", all)
	}
	for n := range len(whole) + 1 {
		rest := collect(t, s, whole[:n])
		if strings.Join(rest, "") != whole[n:] || n < len(whole) && slices.Contains(rest, "") {
			t.Errorf("after %q: %q", whole[:n], rest)
		}
	}
	for _, no := range []string{"x", "wörd by words", whole + " ", "word"} {
		if _, err := s.after(no); err == nil {
			t.Errorf("%q is a prefix", no)
		}
	}
	if _, err := (script{}).after("x"); err == nil {
		t.Error("an empty answer has a prefix")
	}
}

// A very long answer takes no memory before it is given, resumed or not.
func TestLongAnswerIsNotWrittenOut(t *testing.T) {
	s := script{words: split("word by word"), n: maxTokens}
	for _, prefix := range []string{"", "word by wo"} {
		allocs := testing.AllocsPerRun(10, func() {
			text, err := s.after(prefix)
			if err != nil {
				t.Fatal(err)
			}
			for range text {
				return
			}
		})
		if allocs > 20 {
			t.Errorf("after %q: %.0f allocations", prefix, allocs)
		}
	}
}

func collect(t *testing.T, s script, prefix string) []string {
	t.Helper()
	text, err := s.after(prefix)
	if err != nil {
		t.Fatal(err)
	}
	return slices.Collect(text)
}
