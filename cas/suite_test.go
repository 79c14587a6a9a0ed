package cas_test

import (
	"testing"

	"github.com/regfs/regfs/cas"
	"github.com/regfs/regfs/cas/castest"
)

func TestStore(t *testing.T) {
	castest.Run(t, func(t *testing.T) *cas.Store {
		s, err := cas.Open(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
		return s
	})
}
