// Package fleet is what makes virtual machines that run in processes of their own findable and drivable.
//
// A machine is a directory of the registry: vm.json says which process it is and what was asked for, control.sock takes HTTP requests
// with JSON, console.log holds the end of what its console said, output.log that of its command. What a machine's state is, is never
// written down while it runs: its process knows. When that is gone and has left no outcome, it was killed.
//
// One process serves one machine. Whoever may connect is root or the user that owns the process; so requests are trusted to be allowed, but
// not to be sane: they are bounded in size and number, and none can do more to the machine than its documented effect.
//
// How a machine is built does not enter: the server drives the small interface Machine.
package fleet
