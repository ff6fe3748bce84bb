// Package sdk is all that the author of a Sluice provider imports.
//
// A provider is a [Provider] value, registered from an init function. The same source builds a
// native plugin and a sandboxed one:
//
//	go build -o openai .
//	GOOS=wasip1 GOARCH=wasm go build -buildmode=c-shared -o openai.wasm .
//
// In a sandboxed plugin main does not run, so whatever a provider needs is set up in init or in
// package variables; a native main is the one call [Main]. Nothing in the author's file depends
// on which of the two is built.
//
// Generate streams its answer by calling emit and ends in one of two ways: nil means that the
// answer is whole, an error that it is not. Errors have a [Kind], which tells the host what to do
// next, and a [Fault]; both survive the way to the host.
//
// HTTP goes through [Do], [DoJSON], [PostSSE] and [PostLines]. They reach only what the plugin's manifest
// allows, and a header value may hold ${secret:NAME}: the host puts the value in on the way out,
// and the plugin never sees it.
package sdk
