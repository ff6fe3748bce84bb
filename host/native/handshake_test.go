package native

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/sluicehq/sluice/host/manifest"
	"github.com/sluicehq/sluice/host/native/box"
	"github.com/sluicehq/sluice/proto/provider"
)

// shakeHands is a program that says hello as no plugin should, and then waits for the host to go.
// TEST_NAMED is the address of a service that is not the plugin's.
func shakeHands(mode string) {
	dir, foreign := os.Getenv("PLUGIN_UNIX_SOCKET_DIR"), os.Getenv("TEST_NAMED")
	own := filepath.Join(dir, "own")
	network, addr, rest := "unix", own, ""
	switch mode {
	case "hello certificate":
		public, private, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			panic(err)
		}
		cert := &x509.Certificate{SerialNumber: big.NewInt(1)}
		der, err := x509.CreateCertificate(rand.Reader, cert, cert, public, private)
		if err != nil {
			panic(err)
		}
		rest = "|" + base64.RawStdEncoding.EncodeToString(der)
	case "hello escape":
		fmt.Fprint(os.Stderr, "line\n\x1b[2Jcleared\r\n") // first: the line below is what it is killed for
		fmt.Print("\x1b]0;title\a\u202ewho are you?\n")
		os.Exit(3)
	case "hello tcp":
		network, addr = "tcp", foreign
	case "hello unix":
		addr = foreign
	case "hello dots":
		addr = filepath.Dir(dir) + "/x/../egress"
	case "hello link":
		if err := os.Symlink(foreign, own); err != nil {
			panic(err)
		}
	case "hello linked directory":
		moved := dir + "-moved"
		if err := os.Rename(dir, moved); err != nil {
			panic(err)
		}
		if err := os.Symlink(filepath.Dir(foreign), dir); err != nil {
			panic(err)
		}
		addr = filepath.Join(dir, filepath.Base(foreign))
	}
	fmt.Printf("1|1|%s|%s|grpc%s\n", network, addr, rest)
	_, _ = io.Copy(io.Discard, os.Stdin)
}

// TestHandshakeIsNoLever: the line with which a plugin says where it can be reached brings the host
// neither to its end nor to an address of the plugin's choice: requests would leave past the gate.
func TestHandshakeIsNoLever(t *testing.T) {
	for _, mode := range []string{"hello certificate", "hello tcp", "hello unix", "hello dots", "hello link", "hello linked directory"} {
		t.Run(mode, func(t *testing.T) {
			network, addr := "unix", filepath.Join(t.TempDir(), "s")
			if mode == "hello tcp" {
				network, addr = "tcp", "127.0.0.1:0"
			}
			service, err := net.Listen(network, addr)
			if err != nil {
				t.Fatal(err)
			}
			var accepting sync.WaitGroup
			accepting.Go(func() {
				for {
					c, err := service.Accept()
					if err != nil {
						return
					}
					t.Error("the host came to a service that is not the plugin's")
					c.Close()
				}
			})
			defer accepting.Wait()
			defer service.Close()
			m, o := self(t, mode)
			o.Box, o.StartTimeout = &box.Level{}, 3*time.Second // what no kernel helps with
			named := service.Addr().String()
			lookup := o.LookupEnv
			o.LookupEnv = func(name string) (string, bool) {
				if name == "TEST_NAMED" {
					return named, true
				}
				return lookup(name)
			}
			p, err := Start(t.Context(), m, o)
			if err == nil {
				p.Close(ended())
				t.Fatal("it was started")
			}
			t.Log(err)
		})
	}
}

// What a plugin writes instead is shown to whoever tries to run it, on a terminal.
func TestStartErrorsAreLegible(t *testing.T) {
	m, o := self(t, "hello escape")
	_, err := Start(t.Context(), m, o)
	if text := fmt.Sprint(err); strings.ContainsAny(text, "\x1b\a\r\u202e") || !strings.Contains(text, "who are you?") || !strings.Contains(text, "line\n[2Jcleared") {
		t.Errorf("error is %q", text)
	}
}

// lifeline is open for as long as this process lives.
var lifeline io.WriteCloser

// leaveGroup has this process go into the group of a child, which ends with it.
func leaveGroup() error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	child := exec.Command(self)
	child.Env = append(os.Environ(), "TEST_PLUGIN=leads a group")
	child.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if lifeline, err = child.StdinPipe(); err != nil {
		return err
	}
	if err := child.Start(); err != nil {
		return err
	}
	return syscall.Setpgid(0, child.Process.Pid)
}

// A plugin that has left its process group is killed all the same; nothing would ever end that
// waits for it.
func TestProcessGroupIsNoWayOut(t *testing.T) {
	m, o := self(t, "runaway")
	o.Box, o.StartTimeout = &box.Level{}, 2*time.Second
	started := make(chan error, 1)
	go func() {
		_, err := Start(t.Context(), m, o)
		started <- err
	}()
	select {
	case err := <-started:
		if err == nil || !strings.Contains(err.Error(), "no answer within") {
			t.Errorf("error is %v, want that it did not answer", err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("its start never ends")
	}
}

// connect is a connection, as the host makes it, to a plugin that answers every call in one way.
func connect(t *testing.T, answer grpc.StreamHandler) *grpc.ClientConn {
	t.Helper()
	server := grpc.NewServer(grpc.UnknownServiceHandler(answer))
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	t.Cleanup(func() {
		server.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	conn, err := grpc.NewClient("unix:"+l.Addr().String(), append(dialOptions(nil), grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// What a plugin says of its failure goes into logs and frames.
func TestFailuresAreBounded(t *testing.T) {
	p := &Plugin{m: &manifest.Manifest{Name: "talker"}}
	long := strings.Repeat("x\xff", 1<<20)
	detailed, err := status.New(codes.Internal, "").WithDetails(&provider.Error{Kind: "denied", Message: strings.Repeat("x", 1<<20)})
	if err != nil {
		t.Fatal(err)
	}
	for _, said := range []error{status.Error(codes.PermissionDenied, long), status.Error(codes.Internal, long), detailed.Err()} {
		got := p.failure(t.Context(), nil, said).Error()
		if len(got) < 1000 || len(got) > 2*maxMessage+100 || !utf8.ValidString(got) {
			t.Errorf("%d bytes: %.100q", len(got), got)
		}
	}
	conn := connect(t, func(any, grpc.ServerStream) error {
		return status.Error(codes.PermissionDenied, strings.Repeat("x", 1<<20))
	})
	if _, err := provider.Call(t.Context(), conn, provider.Describe, nil); err == nil || len(err.Error()) > maxHeader {
		t.Errorf("an error of %d bytes came through", len(fmt.Sprint(err)))
	}
}

// TestUnaskedServices: go-plugin would follow a broker of the plugin's, which may have it remember
// what it likes.
func TestUnaskedServices(t *testing.T) {
	called := make(chan string, 1)
	conn := connect(t, func(_ any, s grpc.ServerStream) error {
		name, _ := grpc.MethodFromServerStream(s)
		called <- name
		return nil
	})
	for method, refused := range map[string]bool{
		"/plugin.GRPCBroker/StartStream": true, "/plugin.GRPCStdio/StreamStdio": false, string(provider.Generate): false,
	} {
		s, err := conn.NewStream(t.Context(), &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, method)
		if refused {
			if err == nil {
				t.Errorf("%s: it was called", method)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", method, err)
			continue
		}
		if err := s.RecvMsg(&provider.Error{}); !errors.Is(err, io.EOF) {
			t.Errorf("%s: %v", method, err)
		}
		if got := <-called; got != method {
			t.Errorf("%s was called, want %s", got, method)
		}
	}
}
