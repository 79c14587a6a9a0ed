package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"path/filepath"
	"strings"
	"time"

	"github.com/regfs/regfs/imagetest"
)

// requestTime is more than one request takes on any disk.
const requestTime = 2 * time.Minute

// A client is the one load generator for all subjects.
type client struct{ http *http.Client }

func newClient() *client {
	return &client{&http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 16}, Timeout: requestTime}}
}

func (c *client) close() { c.http.CloseIdleConnections() }

func (c *client) push(ctx context.Context, url string, r imagetest.Release) error {
	return imagetest.PushRelease(ctx, c.http, url, r)
}

func (c *client) pull(ctx context.Context, url string, r imagetest.Release) error {
	return imagetest.PullRelease(ctx, c.http, url, r)
}

// catalog asks for all repositories, and for the tags of each. It returns the
// images' names.
func (c *client) catalog(ctx context.Context, url string) (names []string, err error) {
	for page := "/v2/_catalog?n=100"; page != ""; {
		var list struct{ Repositories []string }
		if page, err = c.get(ctx, url+page, &list); err != nil {
			return nil, err
		}
		for _, repo := range list.Repositories {
			var tags struct{ Tags []string }
			if _, err := c.get(ctx, url+"/v2/"+repo+"/tags/list", &tags); err != nil {
				return nil, err
			}
			for _, tag := range tags.Tags {
				names = append(names, repo+":"+tag)
			}
		}
	}
	return names, nil
}

// get reads an answer in JSON, and returns the path of the next page.
func (c *client) get(ctx context.Context, url string, into any) (next string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s: %s", url, resp.Status)
	}
	if err := json.NewDecoder(resp.Body).Decode(into); err != nil {
		return "", fmt.Errorf("%s: %w", url, err)
	}
	_, err = io.Copy(io.Discard, resp.Body)                 // or the connection is not used again
	link, _, _ := strings.Cut(resp.Header.Get("Link"), ">") // </v2/_catalog?last=b&n=2>; rel="next"
	return strings.TrimPrefix(link, "<"), err
}

// walk lists a directory and all below it, as find does, and returns how many
// files there are.
func walk(ctx context.Context, root string) (files int, err error) {
	err = filepath.WalkDir(root, func(_ string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if e.Type().IsRegular() {
			files++
		}
		return ctx.Err()
	})
	return files, err
}
