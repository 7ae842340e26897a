package conn

import (
	"errors"
	"syscall"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// The requests of the device (linux/fuse.h).
const (
	devBackingOpen  = 0x4010e501
	devBackingClose = 0x4004e502
)

// InodeNotify makes the kernel forget what it keeps of an inode, as that of fuse.Server does.
func (c *Conn) InodeNotify(node uint64, off, length int64) fuse.Status {
	body := fuse.NotifyInvalInodeOut{Ino: node, Off: off, Length: length}
	return c.notify(fuse.NOTIFY_INVAL_INODE, bytesOf(&body))
}

// EntryNotify makes the kernel forget a name in a directory.
func (c *Conn) EntryNotify(parent uint64, name string) fuse.Status {
	body := fuse.NotifyInvalEntryOut{Parent: parent, NameLen: uint32(len(name))}
	return c.notify(fuse.NOTIFY_INVAL_ENTRY, bytesOf(&body), append([]byte(name), 0))
}

// InodeNotifyStoreCache puts data into the kernel's cache of an inode.
func (c *Conn) InodeNotifyStoreCache(node uint64, off int64, data []byte) fuse.Status {
	body := fuse.NotifyStoreOut{Nodeid: node, Offset: uint64(off), Size: uint32(len(data))}
	return c.notify(fuse.NOTIFY_STORE_CACHE, bytesOf(&body), data)
}

func (c *Conn) notify(code int32, parts ...[]byte) fuse.Status {
	h := fuse.OutHeader{Length: uint32(SizeOut), Status: -code}
	for _, p := range parts {
		h.Length += uint32(len(p))
	}
	return c.Write(append([][]byte{bytesOf(&h)}, parts...)...)
}

// Write writes one message to the device. Several may do so at once: one that has to wait in
// the kernel holds up no other.
func (c *Conn) Write(parts ...[]byte) fuse.Status {
	var err error
	if e := c.raw.Control(func(fd uintptr) {
		for {
			if _, err = unix.Writev(int(fd), parts); !errors.Is(err, unix.EINTR) {
				return
			}
		}
	}); e != nil {
		return fuse.ENODEV
	}
	return fuse.ToStatus(err)
}

// RegisterBackingFd lets the kernel read a file itself and returns the number to name it by in OPEN.
func (c *Conn) RegisterBackingFd(m *fuse.BackingMap) (id int32, e syscall.Errno) {
	if err := c.raw.Control(func(fd uintptr) {
		var r uintptr
		r, _, e = syscall.Syscall(unix.SYS_IOCTL, fd, devBackingOpen, uintptr(unsafe.Pointer(m)))
		id = int32(r)
	}); err != nil {
		return 0, unix.EBADF
	}
	return id, e
}

// UnregisterBackingFd ends that.
func (c *Conn) UnregisterBackingFd(id int32) (e syscall.Errno) {
	if err := c.raw.Control(func(fd uintptr) {
		_, _, e = syscall.Syscall(unix.SYS_IOCTL, fd, devBackingClose, uintptr(unsafe.Pointer(&id)))
	}); err != nil {
		return unix.EBADF
	}
	return e
}

// bytesOf views a fixed-size structure as bytes.
func bytesOf[T any](v *T) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(v)), unsafe.Sizeof(*v))
}
