package mounttest

import "testing"

// Posix checks what holds in any ordinary directory: first what every program
// expects of files and directories, then what a registry does in the tree that
// it keeps below dir. It leaves nothing of the former behind, and of the
// latter what a registry would.
func Posix(t *testing.T, dir string) {
	t.Run("files", func(t *testing.T) { inFresh(t, dir, fileSteps) })
	t.Run("directories", func(t *testing.T) { inFresh(t, dir, directorySteps) })
	t.Run("registry", func(t *testing.T) {
		for _, s := range registrySteps {
			t.Run(s.name, func(t *testing.T) { s.run(t, dir) })
		}
	})
}
