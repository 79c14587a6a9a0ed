package main

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// A registry is a stock registry's process.
type registry struct {
	cmd *exec.Cmd
	url string
}

// startRegistry runs registry 3.1 on a directory; conf is where its
// configuration goes.
func startRegistry(root, conf string) (*registry, error) {
	addr, err := freeAddr()
	if err != nil {
		return nil, err
	}
	text := fmt.Sprintf("version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\n"+
		"storage: {delete: {enabled: true}, filesystem: {rootdirectory: %q}}\nhttp: {addr: %q}\n", root, addr)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		return nil, err
	}
	tools := os.Getenv("REGFS_TOOLS")
	if tools == "" {
		tools = ".cache/tools"
	}
	cmd := exec.Command(filepath.Join(tools, "registry"), "serve", conf)
	cmd.Env = append(os.Environ(), "OTEL_TRACES_EXPORTER=none")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	r := &registry{cmd: cmd, url: "http://" + addr}
	for range 500 {
		if r.answers() {
			return r, nil
		}
		time.Sleep(20 * time.Millisecond)
	}
	r.stop()
	return nil, errors.New("the registry does not answer")
}

func (r *registry) answers() bool {
	resp, err := http.Get(r.url + "/v2/")
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

func (r *registry) stop() {
	_ = r.cmd.Process.Signal(syscall.SIGTERM)
	_ = r.cmd.Wait() // it ends by the signal, which is no success to it
}

func freeAddr() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}
