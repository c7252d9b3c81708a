// Package sentry runs Linux programs as native guests: gVisor's Sentry, imported as a library, answers their
// system calls; the platform package below this one runs their instructions in a VM of our own.
//
// One process holds at most one sandbox. New builds everything, Confine shuts the process in, Start lets the
// first guest instruction run.
//
// gVisor may be imported here and below and in usernet, nowhere else; no gVisor type appears in what this package exports.
// Command lines, image formats and OCI bundles do not enter: they are turned into a Spec above.
package sentry
