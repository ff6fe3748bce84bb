package native

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/sluicehq/sluice/proto/provider"
	"github.com/sluicehq/sluice/sdk"
)

// Provider is the plugin as any other provider. Its functions fail with an [*sdk.Error], or with
// the error of the caller's emit.
func (p *Plugin) Provider() sdk.Provider {
	pr := sdk.Provider{
		Name: p.m.Name, Version: p.m.Version, Check: p.check,
		Generate: func(ctx context.Context, req *sdk.Request, emit sdk.Emit) error {
			return p.generate(ctx, provider.Generate, req, emit)
		},
	}
	for _, m := range p.m.Models {
		pr.Models = append(pr.Models, sdk.Model(m))
	}
	if p.desc.Resume {
		pr.Resume = func(ctx context.Context, req *sdk.Request, emit sdk.Emit) error {
			return p.generate(ctx, provider.Resume, req, emit)
		}
	}
	if p.desc.CountTokens {
		pr.CountTokens = p.countTokens
	}
	if p.desc.ListModels {
		pr.ListModels = p.listModels
	}
	return pr
}

func (p *Plugin) generate(ctx context.Context, m provider.Method, req *sdk.Request, emit sdk.Emit) error {
	in, err := p.request(req)
	if err != nil {
		return err
	}
	key := sdk.CallKey(req)
	proc, err := p.enter(ctx, key)
	if err != nil {
		return err
	}
	defer p.leave(proc, key)
	var own, unreadable error
	err = provider.Stream(ctx, proc.conn, m, in, func(batch provider.Raw) error {
		err := sdk.DecodeBatch(batch, func(c sdk.Chunk) error {
			own = emit(c)
			return own
		})
		if own == nil {
			unreadable = err
		}
		return err
	})
	switch {
	case own != nil:
		return own
	case unreadable != nil:
		return p.broken("sent what can't be read: %v", unreadable)
	}
	return p.failure(ctx, proc, err)
}

func (p *Plugin) check(ctx context.Context, s sdk.Settings) error {
	in, err := s.MarshalBinary()
	if err != nil {
		return encodeError(sdk.Host, err)
	}
	_, err = p.call(ctx, provider.Configure, in)
	return err
}

func (p *Plugin) countTokens(ctx context.Context, req *sdk.Request) (int, error) {
	in, err := p.request(req)
	if err != nil {
		return 0, err
	}
	out, err := p.call(ctx, provider.CountTokens, in)
	if err != nil {
		return 0, err
	}
	n, err := sdk.DecodeTokenCount(out)
	if err != nil || n < 0 {
		return 0, p.broken("answered with a malformed token count")
	}
	return n, nil
}

func (p *Plugin) listModels(ctx context.Context, s sdk.Settings) ([]sdk.Model, error) {
	in, err := s.MarshalBinary()
	if err != nil {
		return nil, encodeError(sdk.Host, err)
	}
	out, err := p.call(ctx, provider.ListModels, in)
	if err != nil {
		return nil, err
	}
	models, err := sdk.DecodeModels(out)
	if err != nil {
		return nil, p.broken("answered with a malformed list of models")
	}
	return models, nil
}

func (p *Plugin) call(ctx context.Context, m provider.Method, in []byte) ([]byte, error) {
	proc, err := p.enter(ctx, "")
	if err != nil {
		return nil, err
	}
	defer p.leave(proc, "")
	out, err := provider.Call(ctx, proc.conn, m, in)
	if len(out) > maxReply {
		return nil, p.broken("answered with more than %d bytes", maxReply)
	}
	return out, p.failure(ctx, proc, err)
}

// request encodes a request, with the operator's settings when it has none.
func (p *Plugin) request(req *sdk.Request) ([]byte, error) {
	if len(req.Settings) == 0 {
		with := *req
		with.Settings = sdk.Settings(p.m.Config)
		req = &with
	}
	in, err := req.MarshalBinary()
	if err != nil {
		return nil, encodeError(sdk.Caller, err)
	}
	if len(in) > maxRequest {
		return nil, &sdk.Error{Kind: sdk.Invalid, Fault: sdk.Caller, Message: "the request is larger than 64 MiB"}
	}
	return in, nil
}

// maxReply bounds the answer of a call that doesn't stream, as it does for a guest.
const maxReply = 1 << 20

// maxRequest bounds a request, and a Batch on its way back.
const maxRequest = 64 << 20

func encodeError(fault sdk.Fault, err error) error {
	return &sdk.Error{Kind: sdk.Invalid, Fault: fault, Message: "encode request: " + err.Error(), Err: err}
}

func (p *Plugin) broken(format string, args ...any) error {
	return &sdk.Error{Kind: sdk.Internal, Fault: sdk.Plugin, Message: "plugin " + p.m.Name + " " + fmt.Sprintf(format, args...)}
}

// failure turns the end of a call into what the plugin meant, or tells what became of it.
func (p *Plugin) failure(ctx context.Context, proc *process, err error) error {
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return sdk.AsError(context.Cause(ctx))
	}
	st := status.Convert(err)
	said := legible(clip(st.Message(), maxMessage))
	for _, d := range st.Details() {
		detail, ok := d.(*provider.Error)
		if !ok {
			continue
		}
		e := new(sdk.Error)
		b, err := proto.Marshal(detail)
		if err == nil {
			err = e.UnmarshalBinary(b)
		}
		if err != nil {
			return p.broken("failed with a malformed error")
		}
		e.Message = legible(clip(e.Message, maxMessage))
		if e.Kind == sdk.Cancelled { // the host knows better
			return p.broken("gave up without being cancelled: %s", e.Message)
		}
		return e
	}
	switch st.Code() {
	case codes.Unavailable, codes.Canceled:
		return p.lost(proc, said)
	case codes.InvalidArgument:
		return &sdk.Error{Kind: sdk.Invalid, Fault: sdk.Caller, Message: said}
	case codes.FailedPrecondition:
		return &sdk.Error{Kind: sdk.Refused, Fault: sdk.Caller, Message: said}
	case codes.PermissionDenied, codes.Unauthenticated:
		return &sdk.Error{Kind: sdk.Denied, Fault: sdk.Host, Message: said}
	case codes.DataLoss, codes.Aborted:
		return &sdk.Error{Kind: sdk.Truncated, Fault: sdk.Upstream, Message: said}
	case codes.DeadlineExceeded:
		return &sdk.Error{Kind: sdk.Unavailable, Fault: sdk.Upstream, Message: said}
	}
	return p.broken("broke the protocol: %s: %s", st.Code(), said)
}

// lost tells why the connection went, which the process's end explains a moment later.
func (p *Plugin) lost(proc *process, said string) error {
	e := &sdk.Error{Kind: sdk.Unavailable, Fault: sdk.Plugin, Message: "plugin " + p.m.Name + " was lost: " + said}
	select {
	case <-p.closing:
		e.Fault, e.Message = sdk.Host, errClosed.Message
		return e
	default:
	}
	p.mu.Lock()
	retired := proc.retired
	p.mu.Unlock()
	if retired {
		e.Fault, e.Message = sdk.Host, "plugin "+p.m.Name+" was replaced while it answered"
		return e
	}
	t := time.NewTimer(2 * time.Second)
	defer t.Stop()
	select {
	case <-proc.runner.exited:
		exit := proc.runner.exitError()
		e.Message, e.Err = fmt.Sprintf("plugin %s died: %s", p.m.Name, exit.Reason), exit
	case <-t.C:
	}
	return e
}
