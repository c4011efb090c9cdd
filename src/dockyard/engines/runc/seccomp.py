"""The system calls that a container of the runc engine may make: a list of what is allowed; the rest answers EPERM.

The choice follows what container engines allow an ordinary program, and then leaves out more: nothing that loads code
into the kernel, mounts, makes namespaces, traces another process, reads the kernel's keys, or opens a socket of an
unusual family. `bundle` puts it into the runtime configuration; runc skips names that the machine does not have.
Source for the format: OCI runtime specification 1.0, config-linux.md, "seccomp".
"""

from __future__ import annotations

from typing import Any

_FILES = """
access chdir chmod chown chown32 close close_range copy_file_range creat dup dup2 dup3 faccessat faccessat2 fadvise64
fadvise64_64 fallocate fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat fcntl fcntl64 fdatasync fgetxattr
flistxattr flock fremovexattr fsetxattr fstat fstat64 fstatat64 fstatfs fstatfs64 fsync ftruncate ftruncate64
futimesat getcwd getdents getdents64 getxattr getxattrat inotify_add_watch inotify_init inotify_init1 inotify_rm_watch
io_cancel io_destroy io_getevents io_pgetevents io_pgetevents_time64 io_setup io_submit ioctl lchown lchown32 lgetxattr
link linkat listxattr listxattrat llistxattr lremovexattr lseek lsetxattr lstat lstat64 mkdir mkdirat mknod mknodat
newfstatat _llseek _newselect name_to_handle_at open openat openat2 pipe pipe2 pread64 preadv preadv2 pwrite64 pwritev
pwritev2 read readahead readlink readlinkat readv removexattr removexattrat rename renameat renameat2 rmdir sendfile
sendfile64 setxattr setxattrat splice stat stat64 statfs statfs64 statx symlink symlinkat sync sync_file_range
sync_file_range2 syncfs tee truncate truncate64 umask unlink unlinkat ustat utime utimensat utimensat_time64 utimes
vmsplice write writev
"""
_MEMORY = """
brk cachestat get_mempolicy madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mlock mlock2 mlockall
mmap mmap2 mprotect mremap mseal msync munlock munlockall munmap pkey_alloc pkey_free pkey_mprotect process_mrelease
remap_file_pages shmat shmctl shmdt shmget
"""
_PROCESSES = """
arch_prctl capget capset execve execveat exit exit_group fork get_robust_list get_thread_area getcpu getegid getegid32
geteuid geteuid32 getgid getgid32 getgroups getgroups32 getpgid getpgrp getpid getppid getpriority getresgid
getresgid32 getresuid getresuid32 getrlimit getrusage getsid gettid getuid getuid32 ioprio_get ioprio_set kill
landlock_add_rule landlock_create_ruleset landlock_restrict_self pidfd_getfd pidfd_open pidfd_send_signal
prctl prlimit64 rseq sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr sched_getparam
sched_getscheduler sched_rr_get_interval sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam
sched_setscheduler sched_yield seccomp set_robust_list set_thread_area set_tid_address setfsgid setfsgid32 setfsuid
setfsuid32 setgid setgid32 setgroups setgroups32 setpgid setpriority setregid setregid32 setresgid setresgid32
setresuid setresuid32 setreuid setreuid32 setrlimit setsid setuid setuid32 sysinfo tgkill times tkill ugetrlimit uname
vfork wait4 waitid waitpid
"""
_WAITING = """
alarm clock_getres clock_getres_time64 clock_gettime clock_gettime64 clock_nanosleep clock_nanosleep_time64
epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2
futex futex_requeue futex_time64 futex_wait futex_waitv futex_wake getitimer gettimeofday mq_getsetattr mq_notify
mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink msgctl msgget msgrcv msgsnd
nanosleep pause poll ppoll ppoll_time64 pselect6 pselect6_time64 restart_syscall rt_sigaction rt_sigpending
rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo
select semctl semget semop semtimedop semtimedop_time64 setitimer sigaltstack signalfd signalfd4 sigprocmask sigreturn
time timer_create timer_delete timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64
timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime timerfd_settime64
"""
_SOCKETS = """
accept accept4 bind connect getpeername getrandom getsockname getsockopt listen recv recvfrom recvmmsg recvmmsg_time64
recvmsg send sendmmsg sendmsg sendto setsockopt shutdown socketpair
"""
_MACHINE = "arm_fadvise64_64 arm_sync_file_range breakpoint cacheflush riscv_flush_icache set_tls"

_AF_UNIX, _AF_INET, _AF_INET6, _AF_NETLINK = 1, 2, 10, 16
_PERSONALITIES = (0x0, 0x0008, 0x20000, 0x20008, 0xFFFFFFFF)
_NEW_NAMESPACES = 0x7E020000
_EPERM, _ENOSYS = 1, 38
_ALLOW = "SCMP_ACT_ALLOW"


def profile() -> dict[str, Any]:
    """The `linux.seccomp` part of a runtime configuration. `clone3` answers ENOSYS, so that libraries use `clone`."""
    names = " ".join((_FILES, _MEMORY, _PROCESSES, _WAITING, _SOCKETS, _MACHINE)).split()
    families = [_only("socket", 0, family) for family in (_AF_UNIX, _AF_INET, _AF_INET6, _AF_NETLINK)]
    personalities = [_only("personality", 0, kind) for kind in _PERSONALITIES]
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": _EPERM,
        "syscalls": [
            {"names": sorted(set(names)), "action": _ALLOW},
            *families,
            *personalities,
            _clone_within_namespaces(),
            {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": _ENOSYS},
        ],
    }


def _only(name: str, argument: int, value: int) -> dict[str, Any]:
    return {
        "names": [name],
        "action": _ALLOW,
        "args": [{"index": argument, "value": value, "op": "SCMP_CMP_EQ"}],
    }


def _clone_within_namespaces() -> dict[str, Any]:
    """New threads and processes, in the namespaces that there are."""
    masked = {"index": 0, "value": _NEW_NAMESPACES, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}
    return {"names": ["clone"], "action": _ALLOW, "args": [masked]}
