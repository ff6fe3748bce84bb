// Package guest is the wire between the host and a sandboxed plugin: the ABI of
// a WebAssembly reactor module, as constants.
//
// A guest is a module with one exported memory, exporting the functions of the
// Export constants and importing those of the Import constants from [Module]
// and a part of WASI from [WASI]. Anything else it imports is refused when the
// plugin is loaded. Threads, exceptions and more than one memory are refused
// too.
//
// Every parameter and result is an i32. A result is a count or handle (zero and
// up) or a negative errno (see [Errno]). Pointers and lengths are unsigned.
//
// The guest owns its memory and exports no allocator: the host reads and writes
// only the ranges named by the call in progress. A range outside of memory is
// [EFAULT], never a trap.
//
// An instance serves one call of one job and is thrown away. It starts as a
// copy of the instance that ran [ExportInitialize] and [ExportWarm] when the
// plugin was loaded, where every import but clock and random answers [ENOSYS].
// So whatever was seeded there is the same in every job: draw random numbers
// from WASI random_get.
//
// Control messages are the protobuf messages of proto/provider/provider.proto.
package guest

// Major and Minor are the version of this ABI. A new major version changes
// [Module]; a new minor one only adds imports and optional exports.
const (
	Major = 1
	Minor = 0
)

// Version is what a guest built for this ABI returns from [ExportABI].
const Version = Major<<16 | Minor

// Modules a guest may import from.
const (
	Module = "sluice_v1"
	WASI   = "wasi_snapshot_preview1"
)

// Exports of a guest. Those returning a code return 0 for success, [Failed]
// after an Error was given to output, or -ECANCELED after emit said so.
const (
	ExportMemory      = "memory"
	ExportInitialize  = "_initialize"         // (): once, before anything else; optional
	ExportABI         = "sluice_abi"          // () -> Version
	ExportWarm        = "sluice_warm"         // (): once at load, to fill caches; optional
	ExportDescribe    = "sluice_describe"     // () -> code; output: Description
	ExportConfigure   = "sluice_configure"    // () -> code; input: Settings, output: Configured (may be left out)
	ExportGenerate    = "sluice_generate"     // () -> code; input: Request
	ExportResume      = "sluice_resume"       // () -> code; input: Request; optional
	ExportCountTokens = "sluice_count_tokens" // () -> code; input: Request, output: TokenCount; optional
	ExportListModels  = "sluice_list_models"  // () -> code; input: Settings, output: Models; optional
)

// Failed is returned by an export that gave an Error to output.
const Failed = 1

// Imports of a guest, from [Module].
const (
	ImportInputLen  = "input_len"  // () -> n: bytes of the input
	ImportInputRead = "input_read" // (p, n) -> n: writes the whole input to p; E2BIG if n is too small
	ImportOutput    = "output"     // (kind, p, n) -> 0: the result or the error of the call; the last one counts
	ImportEmit      = "emit"       // (kind, p, n) -> 0: one chunk; blocks while the host is busy
	ImportHTTPOpen  = "http_open"  // (meta, metaLen, body, bodyLen) -> h: sends an HTTPRequest, blocks until the head of the response
	ImportHTTPHead  = "http_head"  // (h, p, n) -> n: writes the HTTPHead; E2BIG if n is too small
	ImportHTTPRead  = "http_read"  // (h, p, n) -> count: the next bytes of the body, at most n; 0 at its end
	ImportHTTPClose = "http_close" // (h) -> 0: gives up the rest of the response
	ImportLog       = "log"        // (level, p, n) -> 0: one line of text
	ImportLastError = "last_error" // (p, n) -> n: writes the Error behind the last EIO; 0 if there is none
	// ImportYield belongs to the host, which adds it to every guest. A guest
	// that imports it itself is refused.
	ImportYield = "yield"
)

// WASIImports are the functions of [WASI] that do something; the rest of it may
// be imported and answers ENOSYS (in WASI's own numbering).
var WASIImports = []string{
	"args_get", "args_sizes_get", "environ_get", "environ_sizes_get", // both empty
	"clock_time_get", "clock_res_get",
	"random_get",
	"poll_oneoff", // clocks only
	"sched_yield",
	"fd_write", // descriptors 1 and 2: lines for the log
	"proc_exit",
}

// Output kinds.
const (
	OutputResult = 0
	OutputError  = 1 // an Error
)

// Chunk kinds of emit are the field numbers of message Chunk. For text and
// refusal the bytes are UTF-8 text, which may be cut between any two
// characters; for the others the sub-message.
const (
	KindText         = 1
	KindReasoning    = 2
	KindToolCall     = 3
	KindRefusal      = 4
	KindCitation     = 5
	KindImage        = 6
	KindUsage        = 7
	KindFinish       = 8
	KindProviderData = 9
)

// Log levels.
const (
	LogDebug = 0
	LogInfo  = 1
	LogWarn  = 2
	LogError = 3
)

// Errno is a reason for which an import failed. Imports return it negated. The
// numbers are Linux's.
type Errno int32

// The errnos in use.
const (
	EIO       Errno = 5   // the operation failed, last_error has the Error
	E2BIG     Errno = 7   // more bytes than allowed, or than the buffer holds
	EBADF     Errno = 9   // no such handle
	EFAULT    Errno = 14  // a range outside of memory
	EINVAL    Errno = 22  // an argument that means nothing, a malformed message, text that isn't UTF-8
	EMFILE    Errno = 24  // too many open requests
	ENOSYS    Errno = 38  // not in this call
	ECANCELED Errno = 125 // nobody wants the answer any more: return -ECANCELED
)

// Limits of single arguments, in bytes. The manifest limits sums.
const (
	MaxInput   = 64 << 20 // input of a call
	MaxOutput  = 1 << 20  // result or error of a call
	MaxChunk   = 32 << 20 // one emit, the same on the wire of native plugins
	MaxMeta    = 64 << 10 // an HTTPRequest without its body
	MaxHead    = 64 << 10 // an HTTPHead
	MaxLogLine = 4 << 10  // a log line; the rest of it is cut
)
