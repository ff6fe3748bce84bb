package sdk

import "context"

// Main does nothing in a sandboxed plugin: the host calls the provider itself.
func Main() {}

func do(ctx context.Context, req HTTPRequest) (*HTTPResponse, error) { return nil, nil }
