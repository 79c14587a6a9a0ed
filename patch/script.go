package patch

import "strings"

// script returns the shell script that puts a patch over a directory, if that
// has what the patch requires. What tar says is kept until tar has ended well:
// half a list must not do for a whole one.
func script(release string, algorithms []string) string {
	return strings.NewReplacer("RELEASE", release, "SUMS", strings.Join(algorithms, " ")).Replace(scriptText)
}

const scriptText = `#!/bin/sh
# Puts this patch over the storage directory DIR of a registry, if DIR has all that the patch requires:
#   tar -xOf PATCH regfs/RELEASE/apply.sh | sh -s PATCH DIR
# Each required file is read and its digest compared. With "check" behind DIR nothing is written in any case.
set -eu
[ $# -ge 2 ] || { echo "usage: tar -xOf PATCH regfs/RELEASE/apply.sh | sh -s PATCH DIR [check]" >&2; exit 2; }
case $1 in /*) patch=$1 ;; *) patch=$PWD/$1 ;; esac
cd "$2"
for sum in SUMS; do
	list=$(tar -xOf "$patch" "regfs/RELEASE/requires.$sum")
	said=$(printf '%s\n' "$list" | "${sum}sum" -c - 2>&1) || {
		printf '%s\n' "$said" | grep -v ': OK$' >&2
		echo "$2 has not what RELEASE requires, see above; nothing was written" >&2
		exit 3
	}
done
[ "${3-}" != check ] || { echo "$2 has what RELEASE requires"; exit 0; }
tar -xf "$patch"
echo "$2 has RELEASE now"
`
