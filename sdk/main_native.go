//go:build !wasip1

package sdk

import "context"

// Main serves the registered provider to the host that started this process. In a sandboxed
// plugin it does nothing, as the host calls the provider itself.
func Main() {}

func do(ctx context.Context, req HTTPRequest) (*HTTPResponse, error) { return nil, nil }
