// Package fs9p is a virtio-9p device (device ID 9): it shares one directory of the host with a guest, by the protocol 9P2000.L.
//
// The guest never leaves the directory. Every file it holds is a descriptor that was opened from another one by a name without a slash,
// with openat2 and RESOLVE_BENEATH, so that "..", symbolic links, renames and races have no path to lead astray; symbolic links are
// for the guest to resolve, among its own names. Mounts below the directory are not entered. Only regular files and
// directories are opened; device nodes cannot be made, and neither setuid, setgid nor another owner given to a file, for they would mean more to the host
// than the guest may do. Files belong to whom this process runs as.
//
// Not supported, and refused with EOPNOTSUPP: extended attributes, authentication, Trename and Tremove, for which Linux uses Trenameat and Tunlinkat.
// Locks are granted always: the guest's kernel keeps its programs' locks, and the host's programs are not held to them.
//
// The server is our own because none that is kept up is fit for a hostile guest: the one that others use (hugelgupf/p9 v0.3.0) keeps a node for every name
// ever walked and an attribute's buffer of any size, opens a file twice in a race of two requests, gives up a file that is still
// referred to after Txattrwalk, and panics with a lock held. Requests are served one at a time. KVM and the machine may not enter.
package fs9p
