// Package agent is the host's side of the agent in a guest: it runs commands there, copies files, and tends the guest's clock,
// randomness, network and end.
//
// What the guest answers is not trusted: every frame is checked (package wire), trees are unpacked by package tree's rules, and
// nothing the guest sends makes this side take more memory than a few frames. A guest that does not answer at all is ended by
// the context of the call. Where connections come from is the caller's: this package knows no vsock and no machine.
package agent
