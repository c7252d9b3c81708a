# /init of the busybox guest: what must happen before a shell can run, without a single fork.
#
# Mounts /proc, /sys and /dev, marks on QENEX's milestone port and on the console that user space is reached, and becomes
# `sh /rc`. Doing this with system calls instead of shell commands saves three forks and execs, about a second on a KVM
# that emulates guest kernel code. A mount that fails (a kernel without sysfs, say) is passed over: /rc finds out what is
# missing.

	.include "port.inc"

	.globl	_start
	.text
_start:
	mov	%rsp, %rbp		# argc, argv, 0, envp, 0: the environment is handed on to the shell

	mov	$MILESTONES, %edi
	mov	$USER_SPACE, %sil
	call	put_port

	lea	proc(%rip), %rdi
	lea	proc_dir(%rip), %rsi
	call	mount
	lea	sysfs(%rip), %rdi
	lea	sys_dir(%rip), %rsi
	call	mount
	lea	devtmpfs(%rip), %rdi
	lea	dev_dir(%rip), %rsi
	call	mount

	mov	$1, %eax		# write(1, milestone, length)
	mov	$1, %edi
	lea	milestone(%rip), %rsi
	mov	$milestone_len, %edx
	syscall

	mov	(%rbp), %rax		# argc
	lea	16(%rbp,%rax,8), %rdx	# envp
	lea	argv2(%rip), %rax
	push	$0
	push	%rax
	lea	argv1(%rip), %rax
	push	%rax
	mov	%rsp, %rsi
	lea	shell(%rip), %rdi
	mov	$59, %eax		# execve("/bin/sh", {"sh", "/rc", 0}, envp)
	syscall

	mov	$60, %eax		# exit(1): no shell in the image, which ends in a kernel panic that says so
	mov	$1, %edi
	syscall

# mount(rdi as source and type, on rsi)
mount:
	mov	%rdi, %rdx
	xor	%r10d, %r10d
	xor	%r8d, %r8d
	mov	$165, %eax
	syscall
	ret

	.section .rodata
proc:		.asciz	"proc"
proc_dir:	.asciz	"/proc"
sysfs:		.asciz	"sysfs"
sys_dir:	.asciz	"/sys"
devtmpfs:	.asciz	"devtmpfs"
dev_dir:	.asciz	"/dev"
shell:		.asciz	"/bin/sh"
argv1:		.asciz	"sh"
argv2:		.asciz	"/rc"
milestone:	.ascii	"QENEX: user space\n"
	.set	milestone_len, . - milestone
