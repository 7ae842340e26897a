// Imagefs mounts a container image store as a file system and manages it. See README.md.
//
// One file a command: newXCommand makes the cobra command and its options,
// runX does the work. Everything a user sees of an error passes app.fail.
package main

import "os"

func main() { os.Exit(Main()) }

// Main runs the command line of this process and returns its exit code.
func Main() int {
	a := newApp(os.Stdin, os.Stdout, os.Stderr)
	return a.run(os.Args[1:])
}
