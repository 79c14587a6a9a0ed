package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/regfs/regfs/control"
)

func (c *command) tagCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "tag RELEASE IMAGE REPOSITORY:TAG",
		Short: "Give an image of a release another name",
		Long: `Tag makes a tag point at an image of the release, which is named as regfs ls
lists it: REPOSITORY:TAG, or REPOSITORY@DIGEST. The tag may be in the same
repository or in another one; if it is there already, it moves. No blob is read
or written. The release must not be mounted, nor sealed.`,
		Example: `  regfs tag v1.1 library/nginx:1.25 library/nginx:stable
  regfs tag v1.1 build/app@sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef team/app:1.0`,
		Args: exactly("RELEASE", "IMAGE", "REPOSITORY:TAG"),
		RunE: func(cmd *cobra.Command, args []string) error {
			from, err := control.ParseImage(args[1])
			if err != nil {
				return usage(cmd, fmt.Errorf("tag: %w", err))
			}
			to, err := control.ParseImage(args[2])
			if err != nil {
				return usage(cmd, fmt.Errorf("tag: %w", err))
			}
			return c.with(cmd.Context(), func(client *control.Client) error {
				return client.Tag(cmd.Context(), args[0], from, to)
			})
		},
	}
}

func (c *command) untagCmd() *cobra.Command {
	var withImage bool
	cmd := &cobra.Command{
		Use:   "untag RELEASE REPOSITORY:TAG",
		Short: "Take a tag out of a release, or an image with it",
		Long: `Untag removes a tag from a release. As in a registry, the image stays, under its
digest, and goes out with exports. With --image it goes too, if it has no other
tag in its repository and is no part of another image there. The blobs stay in the store. The
release must not be mounted, nor sealed.`,
		Example: `  regfs untag v1.1 library/nginx:stable
  regfs untag v1.1 library/nginx:1.24 --image`,
		Args: exactly("RELEASE", "REPOSITORY:TAG"),
		RunE: func(cmd *cobra.Command, args []string) error {
			image, err := control.ParseImage(args[1])
			if err != nil {
				return usage(cmd, fmt.Errorf("untag: %w", err))
			}
			var out control.Untagged
			err = c.with(cmd.Context(), func(client *control.Client) (err error) {
				out, err = client.Untag(cmd.Context(), args[0], image, withImage)
				return err
			})
			if err != nil {
				return err
			}
			tellUntagged(image, out, withImage)
			return nil
		},
	}
	cmd.Flags().BoolVar(&withImage, "image", false, "remove the image, too, if it has no other name")
	return cmd
}

// tellUntagged says what is left, which may be more than was meant.
func tellUntagged(image control.ImageName, out control.Untagged, withImage bool) {
	switch {
	case !out.Stays:
	case len(out.Tags) > 0:
		fmt.Fprintf(stderr, "note: %s@%s stays, as %s\n", image.Repository, out.Digest, strings.Join(out.Tags, ", "))
	case withImage:
		fmt.Fprintf(stderr, "note: %s@%s stays, as a part of another image\n", image.Repository, out.Digest)
	default:
		fmt.Fprintf(stderr, "note: %s@%s stays, without a tag; --image removes it, too\n", image.Repository, out.Digest)
	}
}
