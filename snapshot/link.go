package snapshot

import (
	"fmt"

	"github.com/regfs/regfs/layout"
)

// check holds a link against the grammar: the file may have been written by
// anybody.
func (l link) check(tagged bool) error {
	if !layout.ValidRepository(l.Repository) || tagged != (l.Tag != "") || tagged && !layout.ValidTag(l.Tag) {
		return fmt.Errorf("bad name %.300q, tag %.200q", l.Repository, l.Tag)
	}
	return l.Digest.Validate()
}
