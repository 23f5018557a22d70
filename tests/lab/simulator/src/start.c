/* The entry point of the simulated programs: the C library's own start file would bind them to
 * __libc_start_main@GLIBC_2.34, which older containers do not have. */
__asm__(".symver __libc_start_main,__libc_start_main@GLIBC_2.2.5");
__asm__(".text\n.globl _start\n_start:\n"
        "xor %ebp,%ebp\nmov %rdx,%r9\npop %rsi\nmov %rsp,%rdx\nand $-16,%rsp\npush %rax\npush %rsp\n"
        "xor %r8d,%r8d\nxor %ecx,%ecx\nlea main(%rip),%rdi\ncall *__libc_start_main@GOTPCREL(%rip)\nhlt\n");
extern int __libc_start_main(void);
void *simulated_start_reference(void) { return (void *)__libc_start_main; }
