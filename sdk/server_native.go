//go:build !wasip1

package sdk

import (
	"context"
	"fmt"
	"maps"
	"runtime/debug"
	"slices"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/sluicehq/sluice/proto/provider"
)

// server is a provider as a native plugin serves it.
type server struct {
	p *Provider

	mu      sync.Mutex
	running map[string]int // calls whose handler has not returned, by their key
}

// begin counts a call until the function it returns is called.
func (s *server) begin(key string) (end func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running == nil {
		s.running = map[string]int{}
	}
	s.running[key]++
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.running[key]--; s.running[key] == 0 {
			delete(s.running, key)
		}
	}
}

func (s *server) calls() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.running))
}

func (s *server) Call(ctx context.Context, m provider.Method, in provider.Raw) (out provider.Raw, err error) {
	err = guarded(func() (err error) {
		out, err = s.call(ctx, m, in)
		return err
	})
	return out, statusError(err)
}

func (s *server) call(ctx context.Context, m provider.Method, in []byte) ([]byte, error) {
	switch m {
	case provider.Describe:
		d := s.p.Describe()
		return d.MarshalBinary()
	case provider.Configure:
		var set Settings
		if err := set.UnmarshalBinary(in); err != nil || s.p.Check == nil {
			return nil, err
		}
		return nil, s.p.Check(ctx, set)
	case provider.CountTokens:
		if s.p.CountTokens == nil {
			return nil, errNotSupported
		}
		req := new(Request)
		if err := req.UnmarshalBinary(in); err != nil {
			return nil, err
		}
		n, err := s.p.CountTokens(ctx, req)
		return EncodeTokenCount(n), err
	case provider.ListModels:
		if s.p.ListModels == nil {
			return nil, errNotSupported
		}
		var set Settings
		if err := set.UnmarshalBinary(in); err != nil {
			return nil, err
		}
		models, err := s.p.ListModels(ctx, set)
		return EncodeModels(models), err
	case provider.Running:
		return EncodeRunning(s.calls()), nil
	}
	return nil, errNotSupported
}

func (s *server) Stream(ctx context.Context, m provider.Method, in provider.Raw, send func(provider.Raw) error) error {
	generate := s.p.Generate
	if m == provider.Resume {
		generate = s.p.Resume
	}
	if generate == nil {
		return statusError(errNotSupported)
	}
	req := new(Request)
	if err := req.UnmarshalBinary(in); err != nil {
		return statusError(err)
	}
	defer s.begin(CallKey(req))()
	out := newCoalescer(ctx, func(b []byte) error { return send(b) })
	err := guarded(func() error { return generate(ctx, req, out.emit) })
	if e := out.close(); err == nil { // what was emitted before an error or a panic arrives too
		err = e
	}
	return statusError(err)
}

// guarded keeps the panic of one call from taking all others down with the process.
func guarded(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			Logger().Error("provider panicked", "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			err = &Error{Kind: Internal, Fault: Plugin, Message: fmt.Sprintf("provider panicked: %v", p)}
		}
	}()
	return f()
}

// statusError puts an error into the form in which gRPC carries it.
func statusError(err error) error {
	if err == nil {
		return nil
	}
	e := AsError(err)
	st := status.New(codeOf(e.Kind), truncate(e.Message, maxMessage))
	b, err := e.MarshalBinary()
	if err != nil {
		return st.Err()
	}
	detail := new(provider.Error)
	if err := proto.Unmarshal(b, detail); err != nil {
		return st.Err()
	}
	if full, err := st.WithDetails(detail); err == nil {
		st = full
	}
	return st.Err()
}

// codeOf is for clients that don't look at the details.
func codeOf(k Kind) codes.Code {
	switch k {
	case Invalid:
		return codes.InvalidArgument
	case Denied:
		return codes.PermissionDenied
	case Limited:
		return codes.ResourceExhausted
	case Unavailable:
		return codes.Unavailable
	case Truncated:
		return codes.DataLoss
	case Refused:
		return codes.FailedPrecondition
	case Cancelled:
		return codes.Canceled
	}
	return codes.Internal
}
