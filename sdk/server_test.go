//go:build !wasip1

package sdk

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/sluicehq/sluice/proto/provider"
)

// serve serves p as a native plugin does and connects to it.
func serve(t *testing.T, p *Provider) *grpc.ClientConn {
	t.Helper()
	l := bufconn.Listen(1 << 20)
	srv := grpc.NewServer(grpc.ForceServerCodecV2(provider.Codec()))
	provider.RegisterRaw(srv, &server{p: p})
	var wg sync.WaitGroup
	wg.Go(func() { _ = srv.Serve(l) })
	conn, err := grpc.NewClient("passthrough:x", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		srv.Stop()
		wg.Wait()
	})
	return conn
}

// TestGeneratedClient: whoever has only the .proto understands a plugin.
func TestGeneratedClient(t *testing.T) {
	p := &Provider{
		Name: "p", Version: "1", Models: []Model{{Name: "m", Tools: true}},
		Generate: func(ctx context.Context, req *Request, emit Emit) error {
			for _, c := range []Chunk{Reasoning{Text: "hm"}, Text("hello " + req.Prompt()), Usage{Output: 2}, Finish{Reason: FinishStop}} {
				if err := emit(c); err != nil {
					return err
				}
			}
			if req.Model == "busy" {
				return &Error{Kind: Limited, Fault: Upstream, Message: "slow down", Wait: 1500e6, Status: 429, Code: "rate"}
			}
			return nil
		},
		Check:       func(_ context.Context, s Settings) error { return Errorf(Invalid, "bad %s", s) },
		CountTokens: func(_ context.Context, req *Request) (int, error) { return len(req.Messages), nil },
		ListModels:  func(_ context.Context, s Settings) ([]Model, error) { return []Model{{Name: s.String("x", "")}}, nil },
	}
	c := provider.NewProviderClient(serve(t, p))
	ctx := t.Context()
	d, err := c.Describe(ctx, &provider.DescribeRequest{})
	if err != nil || d.Name != "p" || !d.Models[0].Tools || !d.Check || !d.CountTokens || !d.ListModels || d.Resume {
		t.Errorf("description is %v, %v", d, err)
	}
	_, err = c.Configure(ctx, &provider.Settings{Json: []byte(`{}`)})
	if st := status.Convert(err); st.Code() != codes.InvalidArgument || st.Message() != "bad {}" {
		t.Errorf("Configure: %v", err)
	}
	ask := &provider.Request{Model: "m", Messages: []*provider.Message{{Role: "user", Parts: []*provider.Part{{Kind: &provider.Part_Text{Text: "world"}}}}}}
	if n, err := c.CountTokens(ctx, ask); err != nil || n.Tokens != 1 {
		t.Errorf("CountTokens: %v, %v", n, err)
	}
	if m, err := c.ListModels(ctx, &provider.Settings{Json: []byte(`{"x":"y"}`)}); err != nil || len(m.Models) != 1 || m.Models[0].Name != "y" {
		t.Errorf("ListModels: %v, %v", m, err)
	}
	var text string
	generate := func() error {
		text = ""
		stream, err := c.Generate(ctx, ask)
		for err == nil {
			var batch *provider.Batch
			if batch, err = stream.Recv(); err == nil {
				for _, c := range batch.Chunks {
					text += c.GetText() + c.GetReasoning().GetText() + c.GetFinish().GetReason()
				}
			}
		}
		return err
	}
	if err := generate(); err != io.EOF || text != "hmhello worldstop" {
		t.Errorf("the answer is %q, %v", text, err)
	}
	ask.Model = "busy"
	err = generate()
	st := status.Convert(err)
	if len(st.Details()) != 1 || st.Code() != codes.ResourceExhausted || text != "hmhello worldstop" {
		t.Fatalf("%q, %v: want the chunks and an error with details", text, err)
	}
	e := st.Details()[0].(*provider.Error)
	if e.Kind != "limited" || e.Fault != "upstream" || e.WaitMs != 1500 || e.Status != 429 || e.Code != "rate" || e.Message != "slow down" {
		t.Errorf("the error is %v", e)
	}
	stream, err := c.Resume(ctx, ask)
	if err == nil {
		_, err = stream.Recv()
	}
	if status.Code(err) != codes.InvalidArgument {
		t.Errorf("Resume, which it can't: %v", err)
	}
}

// generatedServer is a plugin written in another language: the generated code, and statuses.
type generatedServer struct {
	provider.UnimplementedProviderServer
}

func (generatedServer) Generate(req *provider.Request, stream grpc.ServerStreamingServer[provider.Batch]) error {
	text := req.Messages[0].Parts[0].GetText()
	if err := stream.Send(&provider.Batch{Chunks: []*provider.Chunk{{Kind: &provider.Chunk_Text{Text: text}}, {Kind: &provider.Chunk_Usage{Usage: &provider.Usage{Output: 1}}}}}); err != nil {
		return err
	}
	if req.Model == "fails" {
		return status.Error(codes.PermissionDenied, "no")
	}
	return nil
}

func TestGeneratedServer(t *testing.T) {
	l := bufconn.Listen(1 << 20)
	srv := grpc.NewServer()
	provider.RegisterProviderServer(srv, generatedServer{})
	var wg sync.WaitGroup
	wg.Go(func() { _ = srv.Serve(l) })
	defer wg.Wait()
	defer srv.Stop()
	conn, err := grpc.NewClient("passthrough:x", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for _, model := range []string{"m", "fails"} {
		in, err := (&Request{Model: model, Messages: []Message{{Role: RoleUser, Parts: []Part{TextPart("hi")}}}}).MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		var got []Chunk
		err = provider.Stream(t.Context(), conn, provider.Generate, in, func(b provider.Raw) error {
			return DecodeBatch(b, func(c Chunk) error { got = append(got, c); return nil })
		})
		if fmt.Sprint(got) != "[hi {0 1 0 0 0}]" {
			t.Errorf("%s: chunks are %v", model, got)
		}
		if want := map[string]codes.Code{"m": codes.OK, "fails": codes.PermissionDenied}[model]; status.Code(err) != want {
			t.Errorf("%s: %v, want %v", model, err, want)
		}
	}
}

func TestCoalescer(t *testing.T) {
	t.Run("gathers while a send is in flight", func(t *testing.T) {
		sending, proceed := make(chan []byte), make(chan struct{})
		c := newCoalescer(t.Context(), func(b []byte) error { sending <- b; <-proceed; return nil })
		want := []byte{}
		emit := func(text string) {
			t.Helper()
			if err := c.emit(Text(text)); err != nil {
				t.Fatal(err)
			}
		}
		emit("first")
		if got := batchText(t, <-sending); got != "first|" {
			t.Errorf("the first batch is %q, want the first chunk alone and at once", got)
		}
		for i := range 100 {
			emit(fmt.Sprint(i))
			want = fmt.Appendf(want, "%d|", i)
		}
		closed := make(chan error, 1)
		go func() { closed <- c.close() }()
		proceed <- struct{}{}
		if got := batchText(t, <-sending); got != string(want) {
			t.Errorf("the second batch is %q, want all that came meanwhile", got)
		}
		select {
		case <-closed:
			t.Error("close has returned before the last send")
		default:
		}
		proceed <- struct{}{}
		if err := <-closed; err != nil {
			t.Error(err)
		}
		if err := c.emit(Text("late")); AsError(err).Kind != Internal {
			t.Errorf("emit after the end: %v, want Internal", err)
		}
	})
	t.Run("is bounded", func(t *testing.T) {
		gate := make(chan struct{})
		var sizes []int
		c := newCoalescer(t.Context(), func(b []byte) error { sizes = append(sizes, len(b)); <-gate; return nil })
		const chunks, size = 1000, 1000
		var emitted atomic.Int64
		done := make(chan error, 1)
		go func() {
			for range chunks {
				if err := c.emit(Text(strings.Repeat("x", size))); err != nil {
					done <- err
					return
				}
				emitted.Add(1)
			}
			done <- nil
		}()
		for full := false; !full; runtime.Gosched() {
			c.mu.Lock()
			full = len(c.pending) >= maxPending
			c.mu.Unlock()
		}
		if n := emitted.Load(); n > 2*maxPending/size+4 { // the batch in flight, and the one that waits
			t.Errorf("%d chunks were taken while nothing was sent", n)
		}
		close(gate)
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := c.close(); err != nil {
			t.Error(err)
		}
		total := 0
		for _, n := range sizes {
			total += n
			if n > maxPending+2*size {
				t.Errorf("a batch has %d bytes", n)
			}
		}
		if total < chunks*size {
			t.Errorf("%d bytes were sent, want at least %d", total, chunks*size)
		}
	})
	t.Run("a failed send fails emit", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		failed := make(chan struct{})
		c := newCoalescer(ctx, func([]byte) error { defer close(failed); cancel(); return errors.New("gone") })
		if err := c.emit(Text("a")); err != nil {
			t.Fatal(err)
		}
		<-failed
		<-c.ended
		err := c.emit(Text("b"))
		if e := AsError(err); e == nil || e.Kind != Cancelled {
			t.Errorf("emit: %v, want Cancelled", err)
		}
		if e := AsError(c.close()); e == nil || e.Kind != Cancelled {
			t.Errorf("close: %v, want Cancelled", e)
		}
	})
	t.Run("emit fails when nobody wants the answer", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		c := newCoalescer(ctx, func([]byte) error { return nil })
		cancel()
		if e := AsError(c.emit(Text("a"))); e == nil || e.Kind != Cancelled {
			t.Errorf("emit: %v, want Cancelled", e)
		}
		if err := c.close(); err != nil {
			t.Error(err)
		}
	})
}

func batchText(t *testing.T, b []byte) string {
	t.Helper()
	var out bytes.Buffer
	err := DecodeBatch(b, func(c Chunk) error { fmt.Fprintf(&out, "%s|", c); return nil })
	if err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func BenchmarkNativeWire(b *testing.B) {
	l := bufconn.Listen(1 << 20)
	srv := grpc.NewServer(grpc.ForceServerCodecV2(provider.Codec()))
	n := b.N
	provider.RegisterRaw(srv, &server{p: &Provider{Generate: func(ctx context.Context, req *Request, emit Emit) error {
		for range n {
			if err := emit(Text("a token of 20 bytes.")); err != nil {
				return err
			}
		}
		return nil
	}}})
	go srv.Serve(l)
	defer srv.Stop()
	conn, err := grpc.NewClient("passthrough:x", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	b.ReportAllocs()
	b.ResetTimer()
	got := 0
	err = provider.Stream(context.Background(), conn, provider.Generate, nil, func(batch provider.Raw) error {
		return DecodeBatch(batch, func(Chunk) error { got++; return nil })
	})
	if err != nil || got != n {
		b.Fatalf("%d chunks of %d, %v", got, n, err)
	}
}
