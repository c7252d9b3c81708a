# /bin/off: end the machine. Its first argument's first letter says how:
#
#	p	power off through the kernel (ACPI)
#	d	power off by writing the sleep control register directly, for kernels without ACPI
#	r	reboot
#	h	halt
#
# Waits until the console has sent everything, syncs, and calls reboot(2), which also follows where d does nothing. One exec from the shell, no fork.

	.include "port.inc"

	.globl	_start
	.text
_start:
	mov	$16, %eax		# ioctl(1, TCSBRK, 1): tcdrain
	mov	$1, %edi
	mov	$0x5409, %esi
	mov	$1, %edx
	syscall
	mov	$162, %eax		# sync()
	syscall

	cmpq	$2, (%rsp)		# argc
	jl	power_off
	mov	16(%rsp), %rax
	mov	(%rax), %al
	cmp	$'r', %al
	je	restart
	cmp	$'h', %al
	je	halt
	cmp	$'d', %al
	jne	power_off

	mov	$SLEEP_CONTROL, %edi
	mov	$SLEEP_ENABLE_S5, %sil
	call	put_port

power_off:
	mov	$0x4321fedc, %edx
	jmp	reboot
restart:
	mov	$0x01234567, %edx
	jmp	reboot
halt:
	mov	$0xcdef0123, %edx
reboot:
	mov	$169, %eax		# reboot(MAGIC1, MAGIC2, edx, 0)
	mov	$0xfee1dead, %edi
	mov	$672274793, %esi
	xor	%r10d, %r10d
	syscall

	mov	$60, %eax		# exit(1): reboot(2) refused
	mov	$1, %edi
	syscall
