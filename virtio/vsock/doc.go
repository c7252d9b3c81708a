// Package vsock is the virtio socket device (virtio 1.2, 5.10): stream connections between programs in the guest, which use
// AF_VSOCK, and programs of the host, which use unix sockets, or Dial and Listen in this process.
//
// A connection belongs to the guest as much as to us. Every field of a packet is checked; what makes no sense is answered with RST
// and costs the guest that connection, nothing else. Memory is bounded: what the guest has sent and nobody has read is at
// most 256 KiB a connection, for that is the credit it is given; what the host sends is copied from the writer's own slice into the guest's
// buffers, and waits there until the guest gives credit; there are at most 256 connections.
//
// Device-readable bytes are copied once, from guest memory to the connection's buffer. KVM, the machine and the protocol of the guest
// agent may not enter.
package vsock
