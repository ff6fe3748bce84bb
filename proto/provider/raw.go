package provider

import (
	"context"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // registers the codec that Codec builds on
	"google.golang.org/grpc/mem"
)

// Raw is a message that is encoded already. The sdk brings its own codec for its own types, which
// a sandboxed plugin needs anyhow; the generated types are the documentation of the wire, and
// what the sdk's codec is measured by.
type Raw []byte

// Codec is protobuf for gRPC that also takes *Raw.
func Codec() encoding.CodecV2 { return codec{encoding.GetCodecV2("proto")} }

type codec struct{ encoding.CodecV2 }

func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	if raw, ok := v.(*Raw); ok {
		return mem.BufferSlice{mem.SliceBuffer(*raw)}, nil
	}
	return c.CodecV2.Marshal(v)
}

func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	if raw, ok := v.(*Raw); ok {
		*raw = data.Materialize()
		return nil
	}
	return c.CodecV2.Unmarshal(data, v)
}

// Method is a method of the service, by its full name.
type Method string

// The methods.
const (
	Describe    Method = Provider_Describe_FullMethodName
	Configure   Method = Provider_Configure_FullMethodName
	Generate    Method = Provider_Generate_FullMethodName
	Resume      Method = Provider_Resume_FullMethodName
	CountTokens Method = Provider_CountTokens_FullMethodName
	ListModels  Method = Provider_ListModels_FullMethodName
	Running     Method = Provider_Running_FullMethodName
)

// RawServer serves encoded messages. Both functions are called concurrently.
type RawServer interface {
	// Call answers a method with one result.
	Call(ctx context.Context, m Method, in Raw) (out Raw, err error)
	// Stream answers Generate and Resume: every message sent is a Batch, and belongs to the
	// receiver from then on.
	Stream(ctx context.Context, m Method, in Raw, send func(Raw) error) error
}

// RegisterRaw serves s as the service Provider. The server needs [Codec].
func RegisterRaw(r grpc.ServiceRegistrar, s RawServer) {
	desc := grpc.ServiceDesc{
		ServiceName: Provider_ServiceDesc.ServiceName,
		HandlerType: (*RawServer)(nil),
		Metadata:    Provider_ServiceDesc.Metadata,
	}
	for _, m := range Provider_ServiceDesc.Methods {
		desc.Methods = append(desc.Methods, grpc.MethodDesc{MethodName: m.MethodName, Handler: callHandler(fullName(m.MethodName))})
	}
	for _, m := range Provider_ServiceDesc.Streams {
		m.Handler = streamHandler(fullName(m.StreamName))
		desc.Streams = append(desc.Streams, m)
	}
	r.RegisterService(&desc, s)
}

func fullName(name string) Method {
	return Method("/" + Provider_ServiceDesc.ServiceName + "/" + name)
}

func callHandler(m Method) grpc.MethodHandler {
	return func(srv any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
		var in Raw
		if err := decode(&in); err != nil {
			return nil, err
		}
		out, err := srv.(RawServer).Call(ctx, m, in)
		return &out, err
	}
}

func streamHandler(m Method) grpc.StreamHandler {
	return func(srv any, stream grpc.ServerStream) error {
		var in Raw
		if err := stream.RecvMsg(&in); err != nil {
			return err
		}
		return srv.(RawServer).Stream(stream.Context(), m, in, func(out Raw) error { return stream.SendMsg(&out) })
	}
}

// Call calls a method with one result.
func Call(ctx context.Context, c grpc.ClientConnInterface, m Method, in Raw) (out Raw, err error) {
	err = c.Invoke(ctx, string(m), &in, &out, grpc.ForceCodecV2(Codec()))
	return out, err
}

// Stream calls Generate or Resume and hands every Batch to f. A nil error means that the answer
// is whole. An error of f ends the call and is returned.
func Stream(ctx context.Context, c grpc.ClientConnInterface, m Method, in Raw, f func(batch Raw) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // the server learns of an early return
	stream, err := c.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, string(m), grpc.ForceCodecV2(Codec()))
	if err != nil {
		return err
	}
	if err := stream.SendMsg(&in); err != nil && err != io.EOF { // after EOF, RecvMsg tells why
		return err
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	for {
		var batch Raw
		if err := stream.RecvMsg(&batch); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		if err := f(batch); err != nil {
			return err
		}
	}
}
