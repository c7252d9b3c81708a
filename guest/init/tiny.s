# /init of the smallest guest: mark on QENEX's milestone port and on the console that user space is reached, and power
# off. For boot-time measurements.
#
# Powers off by the sleep control register first (works without ACPI in the kernel), then through reboot(2).

	.set	SLEEP_CONTROL, 0x600	# port of QENEX's ACPI sleep control register
	.set	SLEEP_ENABLE_S5, 0x34	# SLP_EN | 5 << 2 (ACPI 6.5, 4.8.3.7)

	.set	MILESTONES, 0x5f0	# port of QENEX's boot milestones
	.set	USER_SPACE, 1

	.globl	_start
	.text
_start:
	mov	$172, %eax		# iopl(3)
	mov	$3, %edi
	syscall
	mov	%rax, %rbx		# 0: ports may be used
	test	%rbx, %rbx
	jnz	line
	mov	$MILESTONES, %edx
	mov	$USER_SPACE, %al
	out	%al, %dx
line:
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

	test	%rbx, %rbx
	jnz	power_off
	mov	$SLEEP_CONTROL, %edx
	mov	$SLEEP_ENABLE_S5, %al
	out	%al, %dx

power_off:
	mov	$169, %eax		# reboot(MAGIC1, MAGIC2, POWER_OFF, 0)
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
