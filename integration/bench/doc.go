// Package bench measures imagefs against what its users have otherwise: the
// kernel's overlayfs and fuse-overlayfs on the same layer directories, docker
// and podman load, docker save, skopeo copy, tar, rm and gzip. `make bench` runs it whole,
// compares what it measures with the last results in this directory and writes
// new ones: RESULTS.md for people, results.json for the next comparison.
// Without -full it goes once through every row with tiny images, to see that
// each can be measured.
//
// # How a row is measured
//
// Both sides of a row are measured in the same run, by turns within a round, and
// who comes first changes from round to round. The result is the median of the
// rounds, with the smallest and the largest. Of the machine's noise tell the
// column "overlayfs again", which is the first column measured a second time
// and would have the ratio 1 on a quiet machine, and the load averages before
// and after.
//
// The state says what is cached when the measurement starts:
//
//	cold   nothing: the caches of the whole machine were dropped, and then it was mounted
//	fresh  the layers' inodes and content, and imagefs's index; mounted anew
//	warm   as fresh, and the same command ran on this mount just before
//
// Nothing is deleted before the last row: ext4 without a journal does not hand
// out inodes that were deleted in the last minutes, and searches past them, which
// can take most of the time of a load. So nothing else should have deleted much
// shortly before either. Everything a run makes, some 20 GB, lies below TMPDIR,
// which can name a directory of another file system.
//
// # Files
//
// stats.go, table.go, targets.go and compare.go are pure: the results, the tables,
// the targets and how they are judged, and the comparison. The tests measure.
package bench
