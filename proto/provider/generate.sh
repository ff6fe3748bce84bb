#!/bin/sh
# Regenerates provider.pb.go and provider_grpc.pb.go. Needs protoc on the PATH; the plugins are
# pinned here. Run by `go generate ./proto/provider`.
set -eu
cd "$(dirname "$0")/../.."
bin=$(mktemp -d)
trap 'rm -rf "$bin"' EXIT
GOBIN=$bin go install google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.12
GOBIN=$bin go install google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.6.1
PATH=$bin:$PATH protoc --go_out=. --go_opt=paths=source_relative \
	--go-grpc_out=. --go-grpc_opt=paths=source_relative proto/provider/provider.proto
# The compiler's own version is not part of the result: distributions differ in it.
sed -i -E '/^\/\/ (- |\t)?protoc +v[0-9.]+$/d' proto/provider/*.pb.go
