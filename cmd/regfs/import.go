package main

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/regfs/regfs/source"
)

type importFlags struct {
	format, name             string
	keepHost, create, dryRun bool
	asJSON                   bool
}

func (c *command) importCmd() *cobra.Command {
	var flags importFlags
	cmd := &cobra.Command{
		Use:   "import RELEASE SOURCE...",
		Short: "Bring images into a release, from files",
		Long: `Import brings images into a release: from a registry's storage directory, from
what skopeo writes (dir: and trees of "skopeo sync"), from OCI layouts, and from
what "docker save" writes; as directories, and as tars, also compressed by gzip
or zstd. The form is recognised. It can be given as skopeo has it:

  registry:PATH  dir:PATH  oci:PATH[:REF]  oci-archive:FILE[:REF]
  docker-archive:FILE[:REF]

Images keep their names, less the registry that a name begins with (--keep-host
keeps it). Docker Hub's nginx is library/nginx:latest, as docker has it. A
registry's own repositories, and what --name says, are taken as they are.

Each blob is checked against its digest. What the store has is not read again,
so an import that was interrupted goes on where it was. An image that is not
whole is left out and named, the others come in, and the exit code is 3. The
release must not be mounted.`,
		Example: `  regfs release create v1.0
  regfs import v1.0 /var/lib/registry                  # what a stock registry has
  regfs import v1.1 v1.1.tar.zst                       # an export, or docker save's
  regfs import v1.1 synced/                            # of skopeo sync --dest dir
  regfs import v1.1 --name team/app:2.0 oci:layout`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) < 2 {
				return exactly("RELEASE", "SOURCE")(cmd, args)
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			sources, err := flags.sources(args[1:])
			if err != nil {
				return usage(cmd, err)
			}
			im := &importer{command: c, flags: flags}
			im.result.Release = args[0]
			return im.run(cmd.Context(), cmd.OutOrStdout(), sources)
		},
	}
	cmd.Flags().StringVar(&flags.format, "format", "", "what the sources are: registry, dir, oci or docker-archive")
	cmd.Flags().StringVar(&flags.name, "name", "", "REPOSITORY[:TAG] of the one image that has no name, or only a tag")
	cmd.Flags().BoolVar(&flags.keepHost, "keep-host", false, "let names begin with their registry")
	cmd.Flags().BoolVar(&flags.create, "create", false, "make the release if there is none")
	cmd.Flags().BoolVarP(&flags.dryRun, "dry-run", "n", false, "say what would come in, and write nothing")
	cmd.Flags().BoolVar(&flags.asJSON, "json", false, "print JSON")
	return cmd
}

// A sourceArg is a source as the command line names it.
type sourceArg struct {
	path, ref string
	format    source.Format
}

// forms are skopeo's names for what has a format here, and whether a reference
// may follow the path.
var forms = map[string]struct {
	format source.Format
	ref    bool
}{
	"registry":       {source.Registry, false},
	"dir":            {source.Dir, false},
	"oci":            {source.OCI, true},
	"oci-archive":    {source.OCI, true},
	"docker-archive": {source.DockerArchive, true},
}

func (flags importFlags) sources(args []string) ([]sourceArg, error) {
	formats := []source.Format{"", source.Registry, source.Dir, source.OCI, source.DockerArchive}
	if !slices.Contains(formats, source.Format(flags.format)) {
		return nil, fmt.Errorf("import: --format %s is not known", flags.format)
	}
	if flags.name != "" && len(args) > 1 {
		return nil, errors.New("import: --name is for one source")
	}
	all := make([]sourceArg, len(args))
	for i, arg := range args {
		all[i] = parseSource(arg)
		if all[i].format == "" {
			all[i].format = source.Format(flags.format)
		}
		if _, err := os.Stat(all[i].path); err != nil {
			return nil, fmt.Errorf("import: %w", err)
		}
	}
	return all, nil
}

func parseSource(arg string) sourceArg {
	before, path, ok := strings.Cut(arg, ":")
	form, known := forms[before]
	if !ok || !known {
		return sourceArg{path: arg}
	}
	s := sourceArg{path: path, format: form.format}
	if file, ref, ok := strings.Cut(path, ":"); ok && form.ref {
		s.path, s.ref = file, ref
	}
	return s
}
