package compose

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"

	"github.com/regfs/regfs/export"
	"github.com/regfs/regfs/imagelist"
	"github.com/regfs/regfs/index"
	"github.com/regfs/regfs/intake"
)

// A gathering is a release's images before they are entered.
type gathering struct {
	db      *index.DB
	chosen  []chosen
	missing []lost
	tags    map[string]taken // repository:tag
}

// A chosen image has its place in the list, by which all is put in order again.
type chosen struct {
	export.Choice
	reference string
	from      string
	place     int
}

type lost struct {
	Missing
	place int
}

// taken is what a tag was taken for.
type taken struct {
	digest digest.Digest
	from   string
	listed bool // by itself, and not as a referrer of something
}

// takeAll takes every image of the releases. Of a tag that several have, it is
// the first one's.
func (g *gathering) takeAll(from []string) error {
	seen := make(map[string]bool)
	for _, release := range from {
		r, err := g.db.Open(release)
		if err != nil {
			return err
		}
		for _, choice := range export.NewChooser(r).All() {
			if name := choice.Name(); !seen[name] {
				seen[name] = true
				g.chosen = append(g.chosen, chosen{choice, "", release, len(g.chosen)})
			}
		}
		r.Close()
	}
	return nil
}

// takeListed takes what a list names. Of a release is read what is taken from
// it.
func (g *gathering) takeListed(from []string, list []imagelist.Reference) error {
	places, err := g.locate(from, list)
	if err != nil {
		return err
	}
	for _, release := range from {
		if len(places[release]) == 0 {
			continue
		}
		if err := g.takeFrom(release, list, places[release]); err != nil {
			return err
		}
	}
	slices.SortFunc(g.chosen, func(a, b chosen) int { return cmp.Compare(a.place, b.place) })
	return nil
}

func (g *gathering) takeFrom(release string, list []imagelist.Reference, places []int) error {
	var repos []string
	for _, place := range places {
		repos = append(repos, list[place].Repositories()...)
	}
	r, err := g.db.OpenPart(release, repos)
	if err != nil {
		return err
	}
	defer r.Close()
	chooser := export.NewChooser(r)
	for _, place := range places {
		choice, ok := chooser.Find(list[place])
		if !ok { // removed this moment
			g.miss(list, place, release, "its manifest is no longer linked")
		} else if err := g.take(chosen{choice, list[place].String(), release, place}); err != nil {
			return err
		}
	}
	return nil
}

func (g *gathering) miss(list []imagelist.Reference, place int, from, reason string) {
	g.missing = append(g.missing, lost{Missing{list[place].String(), from, reason}, place})
}

// take takes an image. A tag can be one thing only: a list that names two is
// refused. Of a referrer's tag, the most wanted release's is taken.
func (g *gathering) take(c chosen) error {
	c.Tags = slices.DeleteFunc(c.Tags, func(t index.TagLink) bool {
		had, ok := g.tags[c.Repository+":"+t.Tag]
		return ok && had.digest != t.Digest && t.Tag != c.Tag
	})
	for _, t := range c.Tags {
		name := c.Repository + ":" + t.Tag
		had, ok := g.tags[name]
		if listed := t.Tag == c.Tag; !ok || listed && !had.listed {
			g.tags[name] = taken{t.Digest, c.from, listed}
		} else if listed && had.digest != t.Digest {
			return fmt.Errorf("%s is listed as two images: %s of %s, and %s of %s", name, had.digest, had.from, t.Digest, c.from)
		}
	}
	g.chosen = append(g.chosen, c)
	return nil
}

// locate finds out which release each image is taken from, as places in the
// list. What no release has is missing.
func (g *gathering) locate(from []string, list []imagelist.Reference) (places map[string][]int, err error) {
	places = make(map[string][]int)
	err = g.db.Glance(func(glance index.Glance) error {
		for place, ref := range list {
			release, err := locateOne(glance, from, ref)
			if err != nil {
				return fmt.Errorf("%s: %w", ref, err)
			}
			if release == "" {
				g.miss(list, place, "", "no release has it")
				continue
			}
			places[release] = append(places[release], place)
		}
		return nil
	})
	return places, err
}

// locateOne finds the first release that has an image, by the rule of
// [export.Chooser.Find].
func locateOne(glance index.Glance, from []string, ref imagelist.Reference) (string, error) {
	names := ref.Repositories()
	for _, release := range from {
		for _, repo := range names {
			d, err := ref.Digest, error(nil)
			if ref.Tag != "" {
				d, err = glance.Tag(release, repo, ref.Tag)
			}
			if err == nil && (d == "" || ref.Digest != "" && d != ref.Digest) {
				continue
			}
			linked := false
			if err == nil {
				linked, err = glance.Linked(release, repo, d)
			}
			if err != nil || linked {
				return release, err
			}
		}
	}
	return "", nil
}

// images are what is to be entered, in the order of the list. An index that did
// without a platform has it now if another image brings it, as it would after
// pushes of the two: the order must not matter.
func (g *gathering) images() []intake.Image {
	manifests := make(map[digest.Digest]bool)
	for _, c := range g.chosen {
		for _, d := range c.Manifests {
			manifests[d] = true
		}
	}
	images := make([]intake.Image, len(g.chosen))
	for i, c := range g.chosen {
		known := true
		for _, d := range c.Absent {
			if manifests[d] {
				c.Present = append(c.Present, d)
				known = false
			}
		}
		images[i] = intake.Image{
			Repository: c.Repository, Manifests: c.Manifests, Present: c.Present, Tags: c.Tags, History: c.History, Known: known,
		}
	}
	return images
}

// report says what is taken, and what is missing, in the order of the list.
func (g *gathering) report(name string, refused []error) *Report {
	r := &Report{Release: name, Images: []Image{}, Missing: []Missing{}} // none is [] in JSON, not null
	missing := g.missing
	for i, c := range g.chosen {
		if refused[i] == nil {
			r.Images = append(r.Images, Image{c.reference, c.Repository, c.Tag, c.Digest, c.from})
			continue
		}
		reference := cmp.Or(c.reference, c.Name())
		missing = append(missing, lost{Missing{reference, c.from, refused[i].Error()}, c.place})
	}
	slices.SortFunc(missing, func(a, b lost) int { return cmp.Compare(a.place, b.place) })
	for _, m := range missing {
		r.Missing = append(r.Missing, m.Missing)
	}
	return r
}
