//go:build !imagefs_crash

package beneath

// Step marks a point at which a process may die; see crash_on.go.
func Step() {}
