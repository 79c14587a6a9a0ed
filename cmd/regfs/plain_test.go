package main

import (
	"encoding/json"
	"strings"
	"testing"
)

// A name that holds commands for a terminal is spelt out; text is left alone.
func TestPlainText(t *testing.T) {
	for text, want := range map[string]string{
		"plain\ttext\nof ü, 漢 and 😀":   "plain\ttext\nof ü, 漢 and 😀",
		"\x1b[2J\x1b]0;title\x07":      `\u001b[2J\u001b]0;title\u0007`,
		"a\rb\x00c\x7f":                `a\u000db\u0000c\u007f`,
		"C1 \u009b31m":                 `C1 \u009b31m`,
		"not UTF-8 \xff\x9b":           `not UTF-8 \xff\x9b`,
		"turned \u202e round, \u200b0": `turned \u202e round, \u200b0`,
		"tag \U000e0041":               `tag \udb40\udc41`,
	} {
		var b strings.Builder
		if n, err := (plainText{&b}).Write([]byte(text)); n != len(text) || err != nil {
			t.Errorf("%q: %d, %v", text, n, err)
		}
		if b.String() != want {
			t.Errorf("%q is shown as %q, not %q", text, b.String(), want)
		}
	}
}

// JSON that is shown is the same JSON.
func TestPlainTextJSON(t *testing.T) {
	const name = "a\x1b[2J\u009b\u202e\x7f\U000e0041"
	var b strings.Builder
	if err := printJSON(plainText{&b}, name); err != nil {
		t.Fatal(err)
	}
	var back string
	if err := json.Unmarshal([]byte(b.String()), &back); err != nil || back != name || strings.IndexFunc(b.String(), unshowable) >= 0 {
		t.Errorf("%q, %v", b.String(), err)
	}
}
