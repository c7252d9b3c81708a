// Package bench compares QENEX with other virtual machine monitors: the same guests, on the same host, in one run,
// each of them started as its user would start it.
//
// A peer is a program with a command line; what is measured is seen from outside: bytes on its standard
// output, and /proc/PID/smaps. Nothing of QENEX's own rooms is called for a measurement: QENEX is measured as
// a program like the others, so that no peer is timed by friendlier means. A peer that is missing, or that fails, has the
// reason in its cell instead of a number.
package bench
