package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// What a command says goes out by these two, whatever may be in it: names are a
// pusher's or a customer's choice, and a terminal obeys control characters.
// Bytes for other programs, such as an export, go to os.Stdout itself.
var (
	stdout io.Writer = plainText{os.Stdout}
	stderr io.Writer = plainText{os.Stderr}
)

// A plainText writes what people read: what is no graphic character is spelt
// out, but for the ends of lines and tabs.
type plainText struct{ io.Writer }

func (t plainText) Write(p []byte) (int, error) {
	if _, err := io.WriteString(t.Writer, spellOut(string(p))); err != nil {
		return 0, err
	}
	return len(p), nil
}

// spellOut leaves JSON what it is.
func spellOut(text string) string {
	if strings.IndexFunc(text, unshowable) < 0 {
		return text
	}
	var b strings.Builder
	for i, r := range text {
		_, size := utf8.DecodeRuneInString(text[i:])
		switch {
		case !unshowable(r):
			b.WriteRune(r)
		case r == utf8.RuneError && size == 1:
			fmt.Fprintf(&b, `\x%02x`, text[i])
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			fmt.Fprintf(&b, `\u%04x\u%04x`, high, low)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	return b.String()
}

func unshowable(r rune) bool {
	return r != '\n' && r != '\t' && (!unicode.IsGraphic(r) || r == utf8.RuneError)
}
