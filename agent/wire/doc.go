// Package wire is the language between the host and the agent inside a guest: frames on a byte stream, one stream for each
// command.
//
// A frame is the length of its payload (4 bytes, little-endian), a kind (1 byte) and the payload. The first frame of a
// stream is a request of the host. What follows depends on it:
//
//	Ping                                  guest: Info
//	Exec       host: Stdin* StdinEnd Signal* Resize*   guest: Started (Stdout|Stderr|Credit)* Exit
//	CopyIn     host: Data* End            guest: Done
//	CopyOut                               guest: Data* End
//	SyncTime, Reseed, Shutdown            guest: Done
//	Network                               guest: NetworkState
//
// In place of each of the guest's frames an Error may come, and it is the last one. The guest sends Ready, once, on a stream
// of its own to the host's Port.
//
// The host gives Exec's process at most Window bytes of standard input that the guest has not credited, so that a process
// that does not read cannot keep signals from passing.
//
// Neither side trusts the other: lengths are bounded before memory is taken, and a message is either whole and canonical or
// refused. This package knows frames and messages only; no sockets, no processes, no files.
package wire

// Port is where the agent listens (vsock), and where the host may listen for Ready.
const Port = 1024

// Version is the first byte of each request and of Ready. A guest answers other versions with an Error.
const Version = 1

// Bounds, in bytes.
const (
	MaxPayload = 256 << 10 // of a frame
	Chunk      = 32 << 10  // of a frame of data, as we send them
	Window     = 256 << 10 // standard input on its way
	MaxText    = 4 << 10   // of an Error
)

// Kind says what a frame is.
type Kind uint8

// The kinds. Their numbers are the protocol's; they never change their meaning within a Version.
const (
	Ping     Kind = 1 // requests, each with a message of the same name behind the version byte
	Exec     Kind = 2
	CopyIn   Kind = 3
	CopyOut  Kind = 4
	SyncTime Kind = 5
	Reseed   Kind = 6
	Shutdown Kind = 7
	Network  Kind = 8

	Stdin    Kind = 16 // bytes
	StdinEnd Kind = 17
	Signal   Kind = 18 // SignalMessage
	Resize   Kind = 19 // Size

	Started Kind = 32 // StartedMessage
	Stdout  Kind = 33 // bytes
	Stderr  Kind = 34 // bytes
	Credit  Kind = 35 // CreditMessage
	Exit    Kind = 36 // ExitMessage

	Data Kind = 48 // bytes of a tar stream
	End  Kind = 49

	Done         Kind = 64
	Error        Kind = 65 // ErrorMessage
	Info         Kind = 66 // InfoMessage
	NetworkState Kind = 67 // NetworkMessage
	Ready        Kind = 68 // version byte and InfoMessage
)
