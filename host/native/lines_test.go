package native

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"
)

func bufferLog() (*slog.Logger, *bytes.Buffer) {
	var b bytes.Buffer
	return slog.New(slog.NewTextHandler(&b, &slog.HandlerOptions{
		Level: slog.LevelDebug,
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		},
	})), &b
}

func TestLinesBecomeRecords(t *testing.T) {
	for in, want := range map[string]string{
		`{"time":"2026-01-01T00:00:00Z","level":"WARN","msg":"slow","ms":7,"tag":["a"],"provider":"spoofed"}`:  `level=WARN msg=slow ms=7 tag="[\"a\"]"`,
		`{"@level":"error","@message":"bad","@module":"m","@timestamp":"x"}`:                                   `level=ERROR msg=bad @module=m`,
		`{"@level":"info","@message":"m","msg":["plugin lost"],"level":["ERROR"],"time":0,"provider":{"a":1}}`: `level=INFO msg=m`,

		`{"level":"trace","message":"m"}`: `level=DEBUG msg=m`,
		`{"level":"INFO+2","msg":"m"}`:    `level=INFO+2 msg=m`,
		`{"level":"novel","msg":"m"}`:     `level=INFO msg=m`,
		`{"level":7}`:                     `level=INFO msg="plugin output" stream=stderr text="{\"level\":7}"`,
		`{"level":`:                       `level=INFO msg="plugin output" stream=stderr text="{\"level\":"`,
		"panic: oh":                       `level=INFO msg="plugin output" stream=stderr text="panic: oh"`,
		"\xff":                            "level=INFO msg=\"plugin output\" stream=stderr text=\"\uFFFD\"",
		"  ":                              "",
	} {
		log, out := bufferLog()
		newLines(log).read("stderr", strings.NewReader(in+"\n"))
		if got := strings.TrimSpace(out.String()); got != want {
			t.Errorf("%q became\n%s, want\n%s", in, got, want)
		}
	}
}

func TestLinesAreBounded(t *testing.T) {
	log, out := bufferLog()
	l := newLines(log)
	l.read("stderr", io.MultiReader(strings.NewReader(strings.Repeat("x", 100*maxLogLine)), strings.NewReader("\nafter\n")))
	if got := strings.Count(out.String(), "\n"); got != 2 || !strings.Contains(out.String(), "text=after") || out.Len() > 2*maxLogLine {
		t.Errorf("a long line and another became %d lines, %d bytes", got, out.Len())
	}
	fmt.Fprintln(l.writer("stderr"), strings.Repeat("y", 1<<20))
	for i := range 100_000 {
		fmt.Fprintf(l.writer("stderr"), "line %d\n", i)
	}
	if got := strings.Count(out.String(), "\n"); got > 20_000 {
		t.Errorf("%d of 100,000 lines were logged", got)
	}
	if got := cap(l.last); got > 4*tailSize {
		t.Errorf("%d bytes are kept for the tail", got)
	}
	if got := l.tail(); len(got) > tailSize || !strings.HasSuffix(got, "line 99999") {
		t.Errorf("the tail has %d bytes and ends in %q", len(got), got[max(0, len(got)-20):])
	}
}

func TestLinesInPieces(t *testing.T) {
	log, out := bufferLog()
	w := newLines(log).writer("stdout")
	for _, piece := range []string{"one ", "line\ntwo", "", " lines\nrest"} {
		if n, err := io.WriteString(w, piece); n != len(piece) || err != nil {
			t.Fatal(n, err)
		}
	}
	if want := "level=INFO msg=\"plugin output\" stream=stdout text=\"one line\"\nlevel=INFO msg=\"plugin output\" stream=stdout text=\"two lines\"\n"; out.String() != want {
		t.Errorf("logged\n%s, want\n%s", out, want)
	}
}

func FuzzLine(f *testing.F) {
	f.Add([]byte(`{"level":"WARN","msg":"m","a":{"b":[1]},"c":null}`))
	f.Add([]byte("{\n\xff"))
	f.Fuzz(func(t *testing.T, b []byte) {
		log, out := bufferLog()
		newLines(log).read("stderr", bytes.NewReader(b))
		if lines := bytes.Count(out.Bytes(), []byte("\n")); lines > bytes.Count(b, []byte("\n"))+1 {
			t.Errorf("%q became %d lines", b, lines)
		}
	})
}
