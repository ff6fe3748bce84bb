package redistest

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

// A test's servers end with it when it is killed, and hold nothing that it was
// given; the end of a thread of it doesn't end them.
func TestServersOfAKilledTest(t *testing.T) {
	if os.Getenv("REDISTEST_CHILD") != "" {
		killed(t)
		return
	}
	Program(t)
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	child := exec.Command(os.Args[0], "-test.run=^TestServersOfAKilledTest$")
	child.Env = append(os.Environ(), "REDISTEST_CHILD=1")
	child.ExtraFiles = []*os.File{write}
	stdin, err := child.StdinPipe() // its end ends the child
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	stdout, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := Launch(child); err != nil {
		t.Fatal(err)
	}
	write.Close()
	var addr string
	for lines := bufio.NewScanner(stdout); addr == "" && lines.Scan(); {
		addr, _ = strings.CutPrefix(lines.Text(), "server ")
	}
	defer os.RemoveAll(filepath.Dir(addr))

	// The child has closed its end: whatever isn't inherited has ended.
	_ = read.SetReadDeadline(time.Now().Add(patience))
	if _, err := read.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the server has its test's descriptor: %v", err)
	}
	conn, err := net.Dial("unix", addr)
	if err != nil {
		t.Fatal("the server doesn't live:", err)
	}
	defer conn.Close()
	_ = child.Process.Kill()
	_ = child.Wait()
	_ = conn.SetReadDeadline(time.Now().Add(patience))
	if _, err := conn.Read(make([]byte, 1)); err == nil || os.IsTimeout(err) {
		t.Errorf("the server lives on: %v", err)
	}
}

// killed is the test that is killed.
func killed(t *testing.T) {
	started := make(chan *Server)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		started <- Start(t)
	}()
	s := <-started
	_ = os.NewFile(3, "lock").Close()
	fmt.Println("server", s.Addr)
	_, _ = io.Copy(io.Discard, os.Stdin)
}
