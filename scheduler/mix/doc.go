// Package mix measures how policies place real guests: mixes of 4 to 12 native guests, each a process and a VM of its own with one
// busy thread, started, placed by a policy, measured from inside and outside, and ended. The programs in the guests are this
// package's own (Load): spinlock-sharing gangs, ping-pong pairs, batch hogs, latency servers. What decides placements stays in
// scheduler/plan, what applies them in scheduler/apply; the plain policies that they are compared with are here, for nothing else
// uses them. A guest's report is a line of text from a stranger: bounded and checked.
package mix
