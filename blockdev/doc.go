// Package blockdev is the storage behind a virtual disk: raw files and block devices, qcow2 images, copy-on-write
// overlays, and limits of how much of them a guest may use.
//
// A Disk has a fixed size. No operation reaches outside it, and no file ever grows past it. Files are read and written
// by system calls, never mapped: an image that is truncated under us, or a file system that is full, is an error of one
// request, not a signal. Images come from strangers: every field of a qcow2 is checked before it is used.
//
// What a disk is attached to (virtio, guest memory, a machine) stays out.
package blockdev
