package sandbox

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/sluicehq/sluice/proto/guest"
	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
)

const rebuild = "build a Go plugin with GOOS=wasip1 GOARCH=wasm go build -buildmode=c-shared"

// checkMagic tells a WebAssembly module from the other things that get there
// by mistake.
func checkMagic(bin []byte) error {
	switch {
	case bytes.HasPrefix(bin, []byte("\x00asm\x01\x00\x00\x00")):
		return nil
	case bytes.HasPrefix(bin, []byte("\x00asm\x0d\x00\x01\x00")):
		return errors.New("is a WebAssembly component, not a module; build a core module")
	case bytes.HasPrefix(bin, []byte("\x00asm")):
		return errors.New("is a WebAssembly module of an unknown version")
	case bytes.HasPrefix(bin, []byte("\x7fELF")), bytes.HasPrefix(bin, []byte("MZ")), bytes.HasPrefix(bin, []byte("\xcf\xfa\xed\xfe")):
		return errors.New("is a program, not a WebAssembly module; use runtime: native, or " + rebuild)
	}
	return errors.New("is not a WebAssembly module; " + rebuild)
}

// signatures of our imports: how many i32 they take, each returns one.
var signatures = map[string]int{
	guest.ImportInputLen: 0, guest.ImportInputRead: 2, guest.ImportOutput: 3, guest.ImportEmit: 3,
	guest.ImportHTTPOpen: 4, guest.ImportHTTPHead: 3, guest.ImportHTTPRead: 3, guest.ImportHTTPClose: 1,
	guest.ImportLog: 3, guest.ImportLastError: 2,
}

// checkModule refuses a guest that doesn't fit the ABI, with the reason.
func checkModule(m wazero.CompiledModule) error {
	exports := m.ExportedFunctions()
	if exports[guest.ExportABI] == nil {
		if exports["_start"] != nil {
			return errors.New("is a WASI command, not a plugin: it has _start and no " + guest.ExportABI + "; " + rebuild)
		}
		return errors.New("is not a plugin: it has no export " + guest.ExportABI + "; does it import the sdk?")
	}
	for _, f := range m.ImportedFunctions() {
		mod, name, _ := f.Import()
		if err := checkImport(mod, name, f); err != nil {
			return err
		}
	}
	if len(m.ImportedMemories()) > 0 {
		return errors.New("imports its memory; a guest owns and exports it")
	}
	if m.ExportedMemories()[guest.ExportMemory] == nil {
		return errors.New("has no exported memory named memory")
	}
	for _, name := range []string{guest.ExportDescribe, guest.ExportConfigure, guest.ExportGenerate} {
		if exports[name] == nil {
			return fmt.Errorf("lacks the export %s", name)
		}
	}
	for name, f := range exports {
		var want string
		switch name {
		case guest.ExportInitialize, guest.ExportWarm:
			want = "()"
		case guest.ExportABI, guest.ExportDescribe, guest.ExportConfigure, guest.ExportGenerate,
			guest.ExportResume, guest.ExportCountTokens, guest.ExportListModels:
			want = "() i32"
		default:
			continue
		}
		if got := signature(f); got != want {
			return fmt.Errorf("exports %s as %s, the ABI wants %s", name, got, want)
		}
	}
	return nil
}

func checkImport(mod, name string, f api.FunctionDefinition) error {
	switch {
	case mod == guest.WASI:
		if _, ok := wasi[name]; !ok && name != wasiExit {
			return fmt.Errorf("imports %s from WASI, which doesn't have it", name)
		}
		return nil
	case mod == guest.Module && name == guest.ImportYield: // ours: the rewriting refuses a guest's own
		return nil
	case mod == guest.Module:
		n, ok := signatures[name]
		if !ok {
			return fmt.Errorf("imports %s, which ABI %d.%d doesn't have; a newer host may", name, guest.Major, guest.Minor)
		}
		want := "(" + strings.Join(slices.Repeat([]string{"i32"}, n), ", ") + ") i32"
		if got := signature(f); got != want {
			return fmt.Errorf("imports %s as %s, the ABI wants %s", name, got, want)
		}
		return nil
	case strings.HasPrefix(mod, "sluice_v"):
		return fmt.Errorf("was built for guest ABI %s, this host speaks %s", strings.TrimPrefix(mod, "sluice_"), strings.TrimPrefix(guest.Module, "sluice_"))
	}
	return fmt.Errorf("imports %s from %q; a guest may import from %s and %s only", name, mod, guest.Module, guest.WASI)
}

func signature(f api.FunctionDefinition) string {
	names := func(ts []api.ValueType) string {
		out := make([]string, len(ts))
		for i, t := range ts {
			out[i] = api.ValueTypeName(t)
		}
		return strings.Join(out, ", ")
	}
	s := "(" + names(f.ParamTypes()) + ")"
	if r := names(f.ResultTypes()); r != "" {
		s += " " + r
	}
	return s
}

// checkVersion says which side is too old.
func checkVersion(v uint32) error {
	major, minor := v>>16, v&0xffff
	switch {
	case major > guest.Major:
		return fmt.Errorf("was built for guest ABI %d.%d, this host speaks %d.%d; use a newer sluice", major, minor, guest.Major, guest.Minor)
	case major < guest.Major:
		return fmt.Errorf("was built for guest ABI %d.%d, this host speaks %d.%d; rebuild the plugin with a newer sdk", major, minor, guest.Major, guest.Minor)
	case minor > guest.Minor:
		return fmt.Errorf("needs guest ABI %d.%d, this host has %d.%d; use a newer sluice", major, minor, guest.Major, guest.Minor)
	}
	return nil
}
