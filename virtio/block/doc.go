// Package block is the virtio block device (virtio 1.2, 5.2) in front of a blockdev.Disk: reads, writes, flushes, discards, writing
// of zeroes, the serial number, several queues, a cache that the driver can switch, and limits.
//
// Every field of a request is checked here before the disk sees it. Data go between guest memory and file in one system call,
// which also survives memory that cannot be reached. Image formats and files are blockdev's; transports and rings are virtio's.
package block
