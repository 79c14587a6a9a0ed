package bench

// method is what every report says of its figures.
const method = `
- All subjects get the same stock registry and the same client, which pushes and pulls four images at a time, and take turns
  within a round; the first to come is another one in each. Each round of pushes has fresh directories. A registry starts outside
  of the time, except in "Release after release".
- Before each measurement everything is written to the disk, outside of the time; in "Release after release" before each
  release. What is read is in the page cache.
- What was pushed is pulled and compared; each release's tar is read, its blobs hashed, and its images compared with the
  release's; of an export that is made again and again, the first two. All outside of the time. A difference ends the run.
- *An upload's write* ends with the fsync of its file. On regfs that does not wait for the disk: the image's manifest does, and
  all that it needs is on the disk before it. The pushes have both.
- *A release of known images* is all steps but the sync into history, which has them, and the tar.
- *plain directory*: the registry on a directory. With every blob known, the same directory without its ` + "`_manifests`" + `. In
  "Release after release" a new one for each release, to which everything is pushed.
- *kernel overlayfs*: each push goes to an overlay over the one before, without history's ` + "`_manifests`" + `. A place for pushes only.
- *overlay pipeline*: sync into a registry that has all of history; drop merged, upper and work, mount, delete ` + "`_manifests`" + `; start a
  registry on merged and sync again; stop it, ` + "`registry garbage-collect`" + `, remove links to missing blobs and repositories without
  ` + "`_manifests`" + ` (in Go); GNU tar.
- *hard-link selection*: sync into a registry that has all of history; link the files of the release's images into a new
  directory (in Go, as many images at a time as there are processors); GNU tar.
- *regfs*: ` + "`mount --create --detach`" + `, push, ` + "`export`, and `umount`" + ` outside of the time; on overlay the umount is within it,
  before the export. What a release before has left is removed by the pipeline within its "prepare", by the others outside.
- "On the disk" ends with an fsync of the tar, which ` + "`regfs export --output FILE`" + ` does itself; "not synced" with the program, which then
  writes to its standard output. The tars of "Release after release" are those of the commands as they are: regfs syncs, GNU
  tar does not.
- Links as files take an inode of 256 bytes and their blocks each, and so do the directories above them: one release's were
  made and counted.
`
