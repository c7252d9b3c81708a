# /init of the smallest guest: mark on QENEX's milestone port and on the console that user space is reached, and power
# off. For boot-time measurements.
#
# Powers off by the sleep control register first (works without ACPI in the kernel), then through reboot(2).

	.include "port.inc"

	.globl	_start
	.text
_start:
	mov	$MILESTONES, %edi
	mov	$USER_SPACE, %sil
	call	put_port

	mov	$1, %eax		# write(1, milestone, length)
	mov	$1, %edi
	lea	milestone(%rip), %rsi
	mov	$milestone_len, %edx
	syscall
	mov	$16, %eax		# ioctl(1, TCSBRK, 1): wait until the console has sent it
	mov	$1, %edi
	mov	$0x5409, %esi
	mov	$1, %edx
	syscall

	mov	$SLEEP_CONTROL, %edi
	mov	$SLEEP_ENABLE_S5, %sil
	call	put_port

	mov	$169, %eax		# still here: reboot(MAGIC1, MAGIC2, POWER_OFF, 0)
	mov	$0xfee1dead, %edi
	mov	$672274793, %esi
	mov	$0x4321fedc, %edx
	xor	%r10d, %r10d
	syscall
	mov	$169, %eax		# refused: reboot(MAGIC1, MAGIC2, RESTART, 0)
	mov	$0x01234567, %edx
	syscall
	mov	$60, %eax		# exit(1), which ends in a kernel panic
	mov	$1, %edi
	syscall

	.section .rodata
milestone:	.ascii	"QENEX: user space\n"
	.set	milestone_len, . - milestone
