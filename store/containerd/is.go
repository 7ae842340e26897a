package containerd

// Is tells whether a directory is the root of such a store, or of a Docker
// daemon that has one, without looking further below it.
func Is(root string) bool {
	r, err := locate(root)
	if err != nil {
		return false
	}
	r.Close()
	return true
}
