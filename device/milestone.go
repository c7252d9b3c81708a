package device

// MilestoneBase is the port by which a guest's user space marks how far its boot has
// come: one byte, whose meaning is agreed between the initramfs and the reader of the
// run report. It is write-only. (In a Linux guest: printf '\1' | dd of=/dev/port
// bs=1 seek=1520, or iopl and outb.)
const MilestoneBase = 0x5f0

// Milestones is the boot milestone port.
type Milestones struct{ reached func(code byte) }

// NewMilestones returns the port; reached is called for every byte, on the vCPU's
// goroutine, so that a time taken in it is the time of the write.
func NewMilestones(reached func(code byte)) *Milestones { return &Milestones{reached} }

// Registrations returns the port.
func (d *Milestones) Registrations() []Registration {
	return []Registration{{Name: "milestones", Base: MilestoneBase, Size: 1, IRQ: -1, Handler: Bytes{
		Out: func(_ uint64, v byte) {
			if d.reached != nil {
				d.reached(v)
			}
		},
	}}}
}
