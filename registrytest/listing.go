package registrytest

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// A Page is one answer of a listing.
type Page struct {
	Names  []string
	Next   string // the "last" of the next page, from the Link header; empty at the end
	Status int
}

// Catalog lists at most n repositories behind last; n 0 leaves it to the
// registry.
func (a *API) Catalog(n int, last string) Page {
	a.t.Helper()
	return a.page("/v2/_catalog", "repositories", n, last)
}

// Tags lists at most n tags of a repository behind last. 2.8 knows no pages of
// tags and returns them all, in the order of its directory.
func (a *API) Tags(repo string, n int, last string) Page {
	a.t.Helper()
	return a.page("/v2/"+repo+"/tags/list", "tags", n, last)
}

// AllRepositories walks the catalog by pages of n; it fails the test on any
// status but 200.
func (a *API) AllRepositories(n int) []string {
	a.t.Helper()
	return a.all(func(last string) Page { return a.Catalog(n, last) })
}

// AllTags is [API.AllRepositories] for a repository's tags.
func (a *API) AllTags(repo string, n int) []string {
	a.t.Helper()
	return a.all(func(last string) Page { return a.Tags(repo, n, last) })
}

func (a *API) all(next func(last string) Page) (names []string) {
	a.t.Helper()
	for last := ""; ; {
		p := next(last)
		if p.Status != http.StatusOK {
			a.t.Fatalf("listing behind %q: status %d", last, p.Status)
		}
		names = append(names, p.Names...)
		if p.Next == "" {
			return names
		}
		last = p.Next
	}
}

// page asks for one page; its names are under key.
func (a *API) page(path, key string, n int, last string) Page {
	a.t.Helper()
	if n > 0 {
		path = withQuery(path, "n", strconv.Itoa(n))
	}
	if last != "" {
		path = withQuery(path, "last", last)
	}
	ans := a.do(http.MethodGet, path, nil, nil)
	p := Page{Status: ans.status, Next: nextOf(ans.header.Get("Link"))}
	if ans.status != http.StatusOK {
		return p
	}
	listing := map[string]json.RawMessage{}
	if err := json.Unmarshal(ans.body, &listing); err != nil {
		a.t.Fatalf("%s: %v", path, err)
	}
	if err := json.Unmarshal(listing[key], &p.Names); err != nil {
		a.t.Fatalf("%s: %v", path, err)
	}
	return p
}

// nextOf takes "last" from a header such as
// </v2/_catalog?last=b&n=2>; rel="next".
func nextOf(link string) string {
	target, rel, _ := strings.Cut(strings.TrimPrefix(link, "<"), ">")
	if !strings.Contains(rel, `rel="next"`) {
		return ""
	}
	u, err := url.Parse(target)
	if err != nil {
		return ""
	}
	return u.Query().Get("last")
}
