package conn

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// mount attaches a new connection at dir and returns its device's descriptor: by
// itself if the options say so, else with fusermount3.
func mount(dir string, o *fuse.MountOptions) (fd int, err error) {
	if o.DirectMountStrict {
		return mountDirect(dir, o)
	}
	return mountHelper(dir, o)
}

func mountDirect(dir string, o *fuse.MountOptions) (int, error) {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return 0, err
	}
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	words := append([]string{
		fmt.Sprintf("fd=%d", fd), fmt.Sprintf("rootmode=%o", st.Mode&unix.S_IFMT),
		fmt.Sprintf("user_id=%d", os.Geteuid()), fmt.Sprintf("group_id=%d", os.Getegid()),
		fmt.Sprintf("max_read=%d", o.MaxWrite),
	}, o.Options...)
	if o.AllowOther {
		words = append(words, "allow_other")
	}
	if err := unix.Mount(o.FsName, dir, "fuse."+o.Name, o.DirectMountFlags, strings.Join(words, ",")); err != nil {
		_ = unix.Close(fd)
		return 0, err
	}
	return fd, nil
}

// mountHelper lets fusermount3, which may mount for ordinary users, open the
// device, mount it and send it over a socket.
func mountHelper(dir string, o *fuse.MountOptions) (int, error) {
	program, err := helper()
	if err != nil {
		return 0, err
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(pair[0])
	theirs := os.NewFile(uintptr(pair[1]), "fusermount3")
	defer theirs.Close()
	words := append([]string{}, o.Options...)
	if o.AllowOther {
		words = append(words, "allow_other")
	}
	words = append(words, "fsname="+o.FsName, "subtype="+o.Name, fmt.Sprintf("max_read=%d", o.MaxWrite))
	for n := range words {
		words[n] = strings.NewReplacer(`\`, `\\`, `,`, `\,`).Replace(words[n])
	}
	c := exec.Command(program, "-o", strings.Join(words, ","), "--", dir)
	c.Env = append(os.Environ(), "_FUSE_COMMFD=3")
	c.Stderr = os.Stderr
	c.ExtraFiles = []*os.File{theirs}
	if err := c.Run(); err != nil {
		return 0, fmt.Errorf("fusermount exited: %w", err)
	}
	return receive(pair[0])
}

// helper finds fusermount3, also where PATH does not lead to it.
func helper() (string, error) {
	program, err := exec.LookPath("fusermount3")
	if err != nil {
		if usual, e := exec.LookPath("/bin/fusermount3"); e == nil {
			return usual, nil
		}
	}
	return program, err
}

// receive takes the descriptor that a helper has sent.
func receive(socket int) (int, error) {
	data, control := make([]byte, 4), make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(socket, data, control, unix.MSG_CMSG_CLOEXEC|unix.MSG_DONTWAIT)
	if err != nil {
		return 0, fmt.Errorf("fusermount3 sent no device: %w", err)
	}
	messages, err := unix.ParseSocketControlMessage(control[:n])
	if err != nil {
		return 0, fmt.Errorf("fusermount3 sent no device: %w", err)
	}
	for _, m := range messages {
		if fds, err := unix.ParseUnixRights(&m); err == nil && len(fds) > 0 {
			return fds[0], nil
		}
	}
	return 0, errors.New("fusermount3 sent no device")
}
