package containers

// Is tells whether a directory is the root of such a store, without looking below it.
func Is(root string) bool {
	found, _ := isRoot(root)
	return found
}
