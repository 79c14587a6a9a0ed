package supervise

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The process that is supervised is this test's own program, started once more
// with this variable saying what to do, a word for each time it is started. The
// last word is for all later times.
const scriptVariable = "SUPERVISE_SCRIPT"

func TestMain(m *testing.M) {
	if script := os.Getenv(scriptVariable); script != "" {
		act(strings.Fields(script))
		return
	}
	os.Exit(m.Run())
}

// act counts the starts in a file, as a process has no memory of the one before.
func act(words []string) {
	starts, _ := os.OpenFile(os.Getenv("SUPERVISE_STARTS"), os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o600)
	info, _ := starts.Stat()
	fmt.Fprint(starts, ".")
	c, err := Attach(func() {})
	if err != nil {
		panic(err)
	}
	switch word := words[min(int(info.Size()), len(words)-1)]; word {
	case "done":
		c.Serving()
		c.End()
	case "usage":
		c.End()
		os.Exit(2)
	case "panic":
		c.Serving()
		panic("on purpose")
	case "killed":
		c.Serving()
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	case "bus":
		c.Serving()
		signal.Reset()
		_ = syscall.Kill(os.Getpid(), syscall.SIGBUS)
		select {}
	case "wait":
		stop := make(chan os.Signal, 1)
		signal.Notify(stop, syscall.SIGTERM)
		c.Serving()
		fmt.Fprint(starts, "waiting")
		<-stop
		c.End()
		os.Exit(7)
	default:
		panic(word)
	}
}

var quick = Limits{Pause: time.Millisecond, Crashes: 4, Calm: time.Hour}

// run supervises processes that follow a script, and returns how often one was
// started and what was logged.
func run(t *testing.T, ctx context.Context, script string, limits Limits) (starts int, log string, err error) {
	t.Helper()
	return runFile(t, ctx, filepath.Join(t.TempDir(), "starts"), script, limits)
}

// runUntil ends the context when the processes have said something, and a
// moment has passed for the last of them to end.
func runUntil(t *testing.T, ctx context.Context, cancel func(), script, said string, limits Limits) (starts int, log string, err error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "starts")
	go func() {
		defer cancel()
		for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
			if text, _ := os.ReadFile(file); strings.Contains(string(text), said) {
				time.Sleep(100 * time.Millisecond)
				return
			}
		}
	}()
	return runFile(t, ctx, file, script, limits)
}

func runFile(t *testing.T, ctx context.Context, file, script string, limits Limits) (starts int, log string, err error) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var text bytes.Buffer
	var told []bool
	err = Run(ctx, func(crashed bool) *exec.Cmd {
		told = append(told, crashed)
		cmd := exec.Command(self)
		cmd.Env = append(os.Environ(), scriptVariable+"="+script, "SUPERVISE_STARTS="+file)
		return cmd
	}, limits, slog.New(slog.NewTextHandler(&text, nil)))
	for i, crashed := range told {
		if crashed != (i > 0) {
			t.Errorf("start %d was told that one has crashed: %v", i, crashed)
		}
	}
	count, _ := os.ReadFile(file)
	return bytes.Count(count, []byte(".")), text.String(), err
}

func TestOrderlyEnd(t *testing.T) {
	for script, code := range map[string]int{"done": 0, "usage": 2, "panic done": 0, "killed killed done": 0} {
		starts, log, err := run(t, context.Background(), script, quick)
		exit := new(exec.ExitError)
		if code == 0 && err != nil || code != 0 && (!errors.As(err, &exit) || exit.ExitCode() != code) {
			t.Errorf("%s: %v, want code %d", script, err, code)
		}
		if want := len(strings.Fields(script)); starts != want {
			t.Errorf("%s: %d starts, want %d\n%s", script, starts, want, log)
		}
	}
}

func TestCrashIsNamed(t *testing.T) {
	for script, how := range map[string]string{
		"panic done": "exit status 2", "killed done": "signal: killed", "bus done": "exit status 2",
	} {
		_, log, err := run(t, context.Background(), script, quick)
		if err != nil || !strings.Contains(log, how) && !strings.Contains(log, "signal: bus error") {
			t.Errorf("%s: %v\n%s", script, err, log)
		}
	}
}

// What crashes again and again is given up; so is what cannot begin any more.
func TestGivingUp(t *testing.T) {
	for _, script := range []string{"killed", "panic", "killed usage"} {
		starts, log, err := run(t, context.Background(), script, quick)
		if err == nil || errors.As(err, new(*exec.ExitError)) || !strings.Contains(err.Error(), "giving up") || starts != quick.Crashes {
			t.Errorf("%s: %d starts, %v\n%s", script, starts, err, log)
		}
	}
}

// A process that has run for a while begins a new row.
func TestCalm(t *testing.T) {
	calm := quick
	calm.Calm = 0
	starts, _, err := run(t, context.Background(), "killed killed killed killed killed killed done", calm)
	if err != nil || starts != 7 {
		t.Errorf("%d starts, %v", starts, err)
	}
}

func TestPauses(t *testing.T) {
	began := time.Now()
	_, _, err := run(t, context.Background(), "killed", Limits{Pause: 50 * time.Millisecond, Crashes: 4, Calm: time.Hour})
	if took := time.Since(began); err == nil || took < 150*time.Millisecond { // 0, 50 and 100
		t.Errorf("%v, after %v", err, took)
	}
}

func TestEndOfContext(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	_, _, err := runUntil(t, ctx, cancel, "wait", "waiting", quick)
	if exit := new(exec.ExitError); !errors.As(err, &exit) || exit.ExitCode() != 7 {
		t.Errorf("in order: %v", err)
	}
	ctx, cancel = context.WithCancel(context.Background())
	began := time.Now()
	starts, _, err := runUntil(t, ctx, cancel, "killed", "..", Limits{Pause: time.Hour, Crashes: 4, Calm: time.Hour})
	if err == nil || starts != 2 || time.Since(began) > time.Minute {
		t.Errorf("while it waits: %d starts, %v", starts, err)
	}
}

func TestCannotStart(t *testing.T) {
	err := Run(context.Background(), func(bool) *exec.Cmd { return exec.Command("/none") }, quick, slog.New(slog.DiscardHandler))
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
}
