//! The system calls of a locked process: seccomp.

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    apply_filter_all_threads, sock_filter,
};
use std::collections::BTreeMap;
use std::env::consts::ARCH;
use std::io;

/// What arithmetic, memory, threads and open sockets need. Nothing here takes the name of a file, of a process or of an address
/// to connect to, or makes a descriptor.
const ALLOWED: &[i64] = &[
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_close,
    libc::SYS_lseek,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_brk,
    libc::SYS_madvise,
    libc::SYS_futex,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_gettimeofday,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_sched_yield,
    libc::SYS_getrandom,
    libc::SYS_sendto,
    libc::SYS_recvfrom,
    libc::SYS_sendmsg,
    libc::SYS_recvmsg,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_rseq,
    libc::SYS_set_robust_list,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// The filter: what is not allowed is `EPERM`, another architecture's call ends the process.
fn program() -> Result<BpfProgram, seccompiler::BackendError> {
    let condition = |argument, operator, number| {
        SeccompRule::new(vec![SeccompCondition::new(argument, SeccompCmpArgLen::Qword, operator, number)?])
    };
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = ALLOWED.iter().map(|&call| (call, Vec::new())).collect();
    // no memory becomes a program
    let data = condition(2, SeccompCmpOp::MaskedEq(libc::PROT_EXEC as u64), 0)?;
    rules.insert(libc::SYS_mmap, vec![data.clone()]);
    rules.insert(libc::SYS_mprotect, vec![data]);
    // threads, but no processes
    let thread = libc::CLONE_THREAD as u64;
    rules.insert(libc::SYS_clone, vec![condition(0, SeccompCmpOp::MaskedEq(thread), thread)?]);
    let filter = SeccompFilter::new(
        rules,
        SeccompAction::Errno(libc::EPERM as u32),
        SeccompAction::Allow,
        ARCH.try_into()?,
    )?;
    let mut program = vec![
        // the arguments of clone3 stand in memory, where no filter sees them: the C library takes clone instead
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0),
        step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 1, libc::SYS_clone3 as u32),
        step(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32),
    ];
    program.extend(BpfProgram::try_from(filter)?);
    Ok(program)
}

/// An instruction; `past`: how many it leaves out where it does not hold.
fn step(code: u32, past: u8, k: u32) -> sock_filter {
    sock_filter { code: code as u16, jt: 0, jf: past, k }
}

/// Installs it for all threads of this process.
pub(super) fn install() -> io::Result<()> {
    let program = program().map_err(io::Error::other)?;
    apply_filter_all_threads(&program).map_err(io::Error::other)
}

/// The filter as the kernel reads it.
pub(super) fn bytes() -> io::Result<Vec<u8>> {
    let program = program().map_err(io::Error::other)?;
    Ok(program
        .iter()
        .flat_map(|step| {
            let [code, more] = step.code.to_ne_bytes();
            let [a, b, c, d] = step.k.to_ne_bytes();
            [code, more, step.jt, step.jf, a, b, c, d]
        })
        .collect())
}
