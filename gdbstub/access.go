package gdbstub

import (
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
)

// load reads the registers of the vCPU at hand.
func (s *stub) load() (st state, err error) {
	c := s.cpus[s.at]
	if st.regs, st.sregs, err = c.Registers(); err == nil {
		st.xsave, err = c.Vector()
	}
	return st, err
}

// save writes registers back: x87 and SSE ones only if they are among the changed.
func (s *stub) save(st state, vector bool) error {
	c := s.cpus[s.at]
	if vector {
		if err := c.SetVector(st.xsave); err != nil {
			return err
		}
	}
	return c.SetRegisters(&st.regs, &st.sregs)
}

func (s *stub) allRegisters() (string, error) {
	st, err := s.load()
	if err != nil {
		return "", err
	}
	var all []byte
	for _, r := range registers {
		p := make([]byte, r.size)
		r.get(&st, p)
		all = append(all, p...)
	}
	return hex.EncodeToString(all), nil
}

// setAllRegisters leaves those alone that cannot be changed.
func (s *stub) setAllRegisters(text string) error {
	all, err := hex.DecodeString(text)
	if err != nil {
		return err
	}
	st, err := s.load()
	if err != nil {
		return err
	}
	for _, r := range registers {
		if len(all) < r.size {
			break // gdb may send fewer
		}
		if r.set != nil {
			r.set(&st, all[:r.size])
		}
		all = all[r.size:]
	}
	return s.save(st, true)
}

func registerNumber(text string) (register, error) {
	n, err := strconv.ParseUint(text, 16, 16)
	if err != nil || n >= uint64(len(registers)) {
		return register{}, fmt.Errorf("there is no register %.20q", text)
	}
	return registers[n], nil
}

func (s *stub) oneRegister(text string) (string, error) {
	r, err := registerNumber(text)
	if err != nil {
		return "", err
	}
	st, err := s.load()
	if err != nil {
		return "", err
	}
	p := make([]byte, r.size)
	r.get(&st, p)
	return hex.EncodeToString(p), nil
}

func (s *stub) setOneRegister(text string) error {
	number, value, _ := strings.Cut(text, "=")
	r, err := registerNumber(number)
	if err != nil {
		return err
	}
	p, err := hex.DecodeString(value)
	if err != nil || len(p) != r.size {
		return fmt.Errorf("%s has %d bytes, not %.40q", r.name, r.size, value)
	}
	if r.set == nil {
		return fmt.Errorf("%s cannot be changed", r.name)
	}
	st, err := s.load()
	if err != nil {
		return err
	}
	r.set(&st, p)
	return s.save(st, strings.Contains(r.typ, "i387") || r.feature == sseFeature || r.typ == "int")
}

// readMemory returns as much as there is; gdb sees what the guest had where breakpoints are.
func (s *stub) readMemory(text string) (string, error) {
	addr, length, err := twoNumbers(text)
	if err != nil {
		return "", err
	}
	p := make([]byte, min(length, maxPacket/2))
	n, err := s.cpus[s.at].ReadLinear(addr, p)
	if n == 0 && len(p) > 0 {
		return "", err
	}
	s.points.hide(addr, p[:n])
	return hex.EncodeToString(p[:n]), nil
}

func (s *stub) writeMemory(text string, binary bool) error {
	window, data, ok := strings.Cut(text, ":")
	addr, length, err := twoNumbers(window)
	if err != nil || !ok {
		return errPacket
	}
	var p []byte
	if binary {
		p, err = unescape([]byte(data))
	} else {
		p, err = hex.DecodeString(data)
	}
	if err != nil || uint64(len(p)) != length {
		return fmt.Errorf("%w: %d bytes to be written, %d came", errPacket, length, len(p))
	}
	if len(p) == 0 {
		return nil // gdb finds out whether there is an X
	}
	s.points.keep(addr, p)
	_, err = s.cpus[s.at].WriteLinear(addr, p)
	return err
}
