package source

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/regfs/regfs/beneath"
)

// member enters one entry of the tar.
func (a *archive) member(h *tar.Header, number int, t *tar.Reader) error {
	name, err := inside(h.Name)
	if err != nil {
		a.fault(fmt.Sprintf("%.300s", h.Name), err)
		return nil
	}
	switch h.Typeflag {
	case tar.TypeDir:
		a.enter(name, directory)
		return nil
	case tar.TypeXGlobalHeader:
		return nil
	}
	if name == "." {
		return nil
	}
	m := &member{number: number, size: h.Size}
	m.link, m.err = target(name, h)
	if m.link == "" && m.err == nil {
		if err := a.locate(m, t); err != nil {
			return err
		}
	}
	a.put(name, m)
	return nil
}

// inside returns the clean name of a member, which must not lead out.
func inside(name string) (string, error) {
	if len(name) > maxName {
		return "", fmt.Errorf("its name has more than %d bytes", maxName)
	}
	if strings.HasPrefix(name, "/") {
		return "", errors.New("its name is absolute")
	}
	clean := path.Clean(name)
	if clean == ".." || strings.HasPrefix(clean, "../") || strings.ContainsRune(name, 0) {
		return "", errors.New("its name leads out of the archive")
	}
	return clean, nil
}

// target returns the name of the member that a link points at, and refuses all
// that is neither a file nor a link.
func target(name string, h *tar.Header) (string, error) {
	var to string
	switch h.Typeflag {
	case tar.TypeReg:
		for key := range h.PAXRecords {
			if strings.HasPrefix(key, "GNU.sparse.") {
				return "", errors.New("it is a sparse member")
			}
		}
		return "", nil
	case tar.TypeLink:
		to = h.Linkname
	case tar.TypeSymlink:
		to = h.Linkname
		if !strings.HasPrefix(to, "/") {
			to = path.Join(path.Dir(name), to)
		}
	case tar.TypeGNUSparse:
		return "", errors.New("it is a sparse member")
	default:
		return "", beneath.ErrNotRegular
	}
	to, err := inside(to)
	if err != nil {
		return "", errors.New("it is a link out of the archive")
	}
	return to, nil
}

// locate notes where a member's content lies, or keeps it if it may be a text
// that is needed soon.
func (a *archive) locate(m *member, t *tar.Reader) error {
	if a.decompress == nil {
		offset, err := a.f.Seek(0, io.SeekCurrent)
		m.offset = offset
		if err == nil && offset+m.size > a.length {
			m.err = errShort
		}
		return err
	}
	var err error
	if m.start, err = io.ReadAll(io.LimitReader(t, maxHead)); err != nil {
		return err
	}
	if m.size > maxMeta || a.kept+m.size > maxKept || !isText(m.start) {
		return nil
	}
	rest, err := io.ReadAll(t)
	if err != nil {
		return err
	}
	m.text = append(slices.Clone(m.start), rest...)
	a.kept += m.size
	return nil
}

// isText says whether content may be JSON or a link.
func isText(head []byte) bool {
	head = bytes.TrimLeft(head, " \t\r\n")
	return len(head) == 0 || head[0] == '{' || head[0] == '[' || bytes.HasPrefix(head, []byte("sha"))
}

// put gives a member its name. If another has it, they must have the same
// content: who unpacks the tar gets the last one, others the first.
func (a *archive) put(name string, m *member) {
	if first, taken := a.members[name]; taken {
		if !a.alike(first, m) {
			first.err = errors.New("it stands in the archive more than once, with different content")
		}
		return
	}
	a.members[name] = m
	a.names += len(name) + len(m.link)
	if m.err != nil && m.link == "" && !errors.Is(m.err, errShort) {
		a.enter(name, strange)
		return
	}
	a.enter(name, file)
}

// alike compares two members of one name. Of large ones the sizes: what matters
// of them is checked against a digest.
func (a *archive) alike(x, y *member) bool {
	if x.link != "" || y.link != "" || x.err != nil || y.err != nil {
		return x.link == y.link && x.err == nil && y.err == nil
	}
	if x.size != y.size {
		return false
	}
	if a.decompress != nil {
		return bytes.Equal(x.start, y.start) && bytes.Equal(x.text, y.text)
	}
	if x.size > maxMeta {
		return true
	}
	return bytes.Equal(a.at(x), a.at(y))
}

func (a *archive) at(m *member) []byte {
	data, _ := io.ReadAll(io.NewSectionReader(a.f, m.offset, m.size))
	return data
}

// enter makes a name known in its directory, and that in its own.
func (a *archive) enter(name string, k kind) {
	for name != "." {
		dir, base := path.Dir(name), path.Base(name)
		if k == directory && a.dirs[name] == nil {
			a.dirs[name] = make(map[string]kind)
		}
		known := a.dirs[dir] != nil
		if !known {
			a.dirs[dir] = make(map[string]kind)
			a.names += len(dir)
		}
		a.dirs[dir][base] = k
		if known {
			return
		}
		name, k = dir, directory
	}
}
