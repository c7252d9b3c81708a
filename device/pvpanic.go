package device

// PVPanicBase is pvpanic's port (QEMU docs/specs/pvpanic.rst).
const PVPanicBase = 0x505

// Events a guest reports through pvpanic; reading the port gives those we know.
const (
	PVPanicPanicked    = 0x01 // the guest has panicked and will do no more
	PVPanicCrashLoaded = 0x02 // the guest has panicked and now boots its crash kernel
)

// PVPanic is the port by which a guest kernel says that it has panicked.
type PVPanic struct{ event func(events byte) }

// NewPVPanic returns the port; event gets the known bits of every write that has any.
func NewPVPanic(event func(events byte)) *PVPanic { return &PVPanic{event} }

// Registrations returns the port.
func (d *PVPanic) Registrations() []Registration {
	const known = PVPanicPanicked | PVPanicCrashLoaded
	return []Registration{{Name: "pvpanic", Base: PVPanicBase, Size: 1, IRQ: -1, Handler: Bytes{
		In: func(uint64) byte { return known },
		Out: func(_ uint64, v byte) {
			if v &= known; v != 0 && d.event != nil {
				d.event(v)
			}
		},
	}}}
}
