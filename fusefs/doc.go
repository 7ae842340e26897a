// Package fusefs serves a container image store as a FUSE file system.
package fusefs
