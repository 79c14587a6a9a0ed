package control

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/export"
	"github.com/regfs/regfs/index"
	"github.com/regfs/regfs/sealed"
)

// Detail is what GET /v1/releases/NAME tells of one release.
type Detail struct {
	Release
	Images  int   `json:"images"` // as "regfs ls" lists them
	Blobs   int   `json:"blobs"`  // that its images need and the store has, each once
	Bytes   int64 `json:"bytes"`
	Missing int   `json:"missing,omitempty"` // blobs that its images need and the store has not
}

// sealResponse answers POST /v1/releases/NAME/seal.
type sealResponse struct {
	Digest digest.Digest `json:"digest"`
}

// detail tells of one release.
func (s *Server) detail(r *http.Request) (any, error) {
	return withRelease(s, r, func(release *index.Release) (Detail, error) {
		d := Detail{Release: Release{Name: release.Name, Created: release.Created, Sealed: release.Sealed()}}
		for _, m := range s.mounted() {
			if m.Release == release.Name {
				d.Mountpoint = m.Mountpoint
			}
		}
		images, err := export.Images(release, s.store.Blobs)
		if err != nil {
			return d, err
		}
		inv := export.Take(release, s.store.Blobs)
		d.Images, d.Missing = len(images), len(inv.Missing)
		for _, f := range inv.Files {
			if f.Blob != "" {
				d.Blobs++
				d.Bytes += f.Size
			}
		}
		return d, nil
	})
}

// seal seals a release that nobody has mounted.
func (s *Server) seal(r *http.Request) (any, error) {
	release, err := s.store.Index.Open(r.PathValue("name"))
	if err != nil {
		return nil, err
	}
	defer release.Close()
	if release.Sealed() == "" {
		unclaim, err := s.claim(release.Name, "seal")
		if err != nil {
			return nil, err
		}
		defer unclaim()
	}
	d, err := sealed.Seal(s.store, release)
	if err != nil {
		return nil, incomplete(err)
	}
	s.snapshot(release.Name)
	s.log.Info("sealed", "release", release.Name, "digest", d)
	return sealResponse{d}, nil
}

func (s *Server) document(r *http.Request) (any, error) {
	return withRelease(s, r, func(release *index.Release) (sealed.Reading, error) {
		reading, err := sealed.Read(s.store, release)
		if err != nil {
			return reading, err
		}
		// Who asks reads the blobs himself.
		return reading, s.store.Blobs.Settle()
	})
}

// incomplete gives an error its kind, on the way to the command.
func incomplete(err error) error {
	if errors.As(err, new(*sealed.IncompleteError)) {
		return fmt.Errorf("%w%w", err, silent{ErrIncomplete})
	}
	return err
}

// silent is an error without a word of its own.
type silent struct{ error }

func (silent) Error() string   { return "" }
func (s silent) Unwrap() error { return s.error }

// exportedDocument adds to an inventory the document of a sealed release, if the
// inventory is of all of it.
func (s *Server) exportedDocument(release *index.Release, inv *export.Inventory, part export.Selection) error {
	if release.Sealed() == "" || !part.IsAll() || inv.Err() != nil {
		return nil
	}
	reading, err := sealed.Read(s.store, release)
	if err != nil {
		return err
	}
	if digest.FromBytes(reading.Document) != reading.Sealed {
		return incomplete(fmt.Errorf("export %s: it is sealed, and not what was sealed: %w", release.Name, reading.Err(release.Name)))
	}
	inv.Document = string(reading.Document)
	return nil
}

// Show tells of one release.
func (c *Client) Show(ctx context.Context, release string) (d Detail, err error) {
	if err := index.ValidRelease(release); err != nil {
		return d, err
	}
	err = c.call(ctx, http.MethodGet, "/v1/releases/"+url.PathEscape(release), nil, &d)
	return d, err
}

// Seal seals a release, and returns the digest of its document.
func (c *Client) Seal(ctx context.Context, release string) (digest.Digest, error) {
	var out sealResponse
	if err := index.ValidRelease(release); err != nil {
		return "", err
	}
	err := c.call(ctx, http.MethodPost, "/v1/releases/"+url.PathEscape(release)+"/seal", nil, &out)
	return out.Digest, err
}

// Document returns the document of a release, and what is wrong with the
// release; see [sealed.Read].
func (c *Client) Document(ctx context.Context, release string) (reading sealed.Reading, err error) {
	err = c.ask(ctx, release, "document", &reading)
	return reading, err
}
