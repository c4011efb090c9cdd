/* A static program that plays berth inside tiny test images, and pokes at the walls of its container.
   Built by tests/support/tiny_image.py. Its first argument says what to do; see main at the end. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static volatile sig_atomic_t stopping;

static void on_term(int number) { (void)number; stopping = 1; }

static void say(const char *name, long result) {
    printf("%s=%s\n", name, result < 0 ? strerrorname_np(errno) : "ok");
    fflush(stdout);
}

static int take_listeners(int *listeners, int limit, int *control) {
    struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = "/run/berth/activate.sock"};
    *control = socket(AF_UNIX, SOCK_STREAM, 0);
    if (connect(*control, (struct sockaddr *)&address, sizeof address) < 0) { perror("activate.sock"); exit(5); }
    char text[512], space[CMSG_SPACE(sizeof(int) * 8)];
    struct iovec part = {text, sizeof text};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof space};
    ssize_t size = recvmsg(*control, &message, 0);
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    if (size <= 0 || !header) { fprintf(stderr, "no listeners came\n"); exit(6); }
    int count = (int)((header->cmsg_len - CMSG_LEN(0)) / sizeof(int));
    for (int i = 0; i < count && i < limit; i++) listeners[i] = ((int *)CMSG_DATA(header))[i];
    fprintf(stderr, "took %d listeners: %.*s", count, (int)size, text);
    return count;
}

static void answer(int listener) {
    static const char reply[] = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\ntiny\n";
    int client = accept(listener, NULL, NULL);
    if (client < 0) return;
    char request[4096];
    if (read(client, request, sizeof request) > 0) { if (write(client, reply, sizeof reply - 1) < 0) perror("write"); }
    close(client);
}

static int serve(const char *how) {
    int listeners[8], control, count = take_listeners(listeners, 8, &control);
    if (!strcmp(how, "hang-up")) { close(control); pause(); }
    if (!strcmp(how, "never-ready")) { fprintf(stderr, "still loading\n"); pause(); }
    if (!strcmp(how, "nonsense")) { if (write(control, "maybe\n", 6) < 0) return 1; pause(); }
    if (!strcmp(how, "broken")) { fprintf(stderr, "the weights are damaged\n"); return 9; }
    if (write(control, "ready\n", 6) != 6) return 7;
    close(control);
    struct pollfd polls[8];
    for (int i = 0; i < count; i++) polls[i] = (struct pollfd){listeners[i], POLLIN, 0};
    while (!stopping)
        if (poll(polls, (nfds_t)count, 1000) > 0)
            for (int i = 0; i < count; i++) if (polls[i].revents) answer(polls[i].fd);
    fprintf(stderr, "drained\n");
    return 0;
}

static void try_connect(const char *name, const char *host) {
    int client = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(53)};
    inet_pton(AF_INET, host, &address.sin_addr);
    say(name, connect(client, (struct sockaddr *)&address, sizeof address));
    close(client);
}

static void print_status(void) {
    static const char *wanted[] = {"Uid", "Gid", "CapEff", "CapPrm", "CapBnd", "CapInh", "CapAmb", "NoNewPrivs", "Seccomp"};
    char line[512];
    FILE *status = fopen("/proc/self/status", "r");
    while (status && fgets(line, sizeof line, status))
        for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
            size_t length = strlen(wanted[i]);
            long long value;
            if (!strncmp(line, wanted[i], length) && line[length] == ':') {
                char *field = line + length + 1;
                value = strtoll(field, NULL, strncmp(wanted[i], "Cap", 3) ? 10 : 16);
                printf("%s=%lld\n", wanted[i], value);
            }
        }
    if (status) fclose(status);
}

static void print_interfaces(void) {
    struct if_nameindex *all = if_nameindex();
    printf("interfaces=");
    for (struct if_nameindex *one = all; one && one->if_index; one++) printf("%s%s", one == all ? "" : ",", one->if_name);
    printf("\n");
}

static int report(void) {
    struct rlimit files;
    struct statvfs tmp;
    print_status();
    print_interfaces();
    say("write_root", open("/intruder", O_CREAT | O_WRONLY, 0600));
    say("write_bin", open("/bin/tiny", O_WRONLY));
    say("write_run", open("/run/berth/intruder", O_CREAT | O_WRONLY, 0600));
    say("write_sys", open("/proc/sys/kernel/hostname", O_WRONLY));
    say("write_tmp", open("/tmp/mine", O_CREAT | O_WRONLY, 0600));
    say("read_kcore", open("/proc/kcore", O_RDONLY));
    getrlimit(RLIMIT_NOFILE, &files);
    printf("files=%llu\n", (unsigned long long)files.rlim_cur);
    statvfs("/tmp", &tmp);
    printf("tmp_bytes=%llu\n", (unsigned long long)tmp.f_blocks * tmp.f_frsize);
    printf("pid=%d\n", getpid());
    printf("setting=%s\n", getenv("SETTING") ? getenv("SETTING") : "");
    printf("baked=%s\n", getenv("BAKED") ? getenv("BAKED") : "");
    try_connect("connect_outside", "192.0.2.1");
    try_connect("connect_metadata", "169.254.169.254");
    return 0;
}

static int forbidden(void) {
    say("mount", mount("none", "/tmp", "tmpfs", 0, ""));
    say("unshare", unshare(CLONE_NEWUSER));
    say("setns", syscall(SYS_setns, 0, 0));
    say("chroot", chroot("/tmp"));
    say("ptrace", ptrace(PTRACE_TRACEME, 0, 0, 0));
    say("keyctl", syscall(SYS_keyctl, 0, 0, 0, 0, 0));
    say("bpf", syscall(SYS_bpf, 0, NULL, 0));
    say("userfaultfd", syscall(SYS_userfaultfd, 0));
    say("kexec", syscall(SYS_kexec_load, 0, 0, NULL, 0));
    say("init_module", syscall(SYS_init_module, NULL, 0, ""));
    say("clone_user", syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0));
    say("socket_packet", socket(AF_PACKET, SOCK_RAW, 0));
    return 0;
}

static int eat(int mebibytes) {
    for (int i = 0; i < mebibytes; i++) {
        char *piece = malloc(1 << 20);
        if (!piece) { printf("malloc failed after %d\n", i); return 3; }
        memset(piece, i + 1, 1 << 20);
    }
    printf("ate %d\n", mebibytes);
    return 0;
}

static int fork_many(int wanted) {
    int born = 0;
    for (; born < wanted; born++) {
        pid_t child = fork();
        if (child == 0) { sleep(20); _exit(0); }
        if (child < 0) break;
    }
    printf("born=%d\n", born);
    fflush(stdout);
    kill(-1, SIGKILL);
    return 0;
}

static int chatter(int lines, int milliseconds) {
    for (int i = 1; i <= lines && !stopping; i++) {
        printf("line %d\n", i);
        fflush(stdout);
        if (milliseconds) nanosleep(&(struct timespec){milliseconds / 1000, (milliseconds % 1000) * 1000000L}, NULL);
    }
    return 0;
}

static int flood(int mebibytes) {
    static char line[1 << 16];
    memset(line, 'x', sizeof line - 1);
    line[sizeof line - 1] = '\n';
    for (int i = 0; i < mebibytes * 16; i++)
        if (fwrite(line, sizeof line, 1, stdout) != 1) return 1;
    printf("the end\n");
    fflush(stdout);
    while (!stopping) sleep(1);
    return 0;
}

static int echo(void) {
    char piece[65536];
    size_t total = 0;
    for (ssize_t size; (size = read(0, piece, sizeof piece)) > 0; total += (size_t)size)
        if (write(1, piece, (size_t)size) != size) return 1;
    fprintf(stderr, "echoed %zu bytes\n", total);
    return 3;
}

static int burn(int milliseconds) {
    struct timespec start, now, used;
    clock_gettime(CLOCK_MONOTONIC, &start);
    do clock_gettime(CLOCK_MONOTONIC, &now);
    while ((now.tv_sec - start.tv_sec) * 1000 + (now.tv_nsec - start.tv_nsec) / 1000000 < milliseconds);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
    printf("cpu_ms=%ld\n", used.tv_sec * 1000 + used.tv_nsec / 1000000);
    return 0;
}

/* Blocked but for the wait itself, so that a signal just before it is not missed. */
static int wait_for_term(void) {
    sigset_t term, before;
    sigemptyset(&term);
    sigaddset(&term, SIGTERM);
    sigprocmask(SIG_BLOCK, &term, &before);
    while (!stopping) sigsuspend(&before);
    return 0;
}

int main(int count, char **words) {
    const char *mode = count > 1 ? words[1] : "serve", *more = count > 2 ? words[2] : "";
    struct sigaction action = {.sa_handler = on_term};
    sigaction(SIGTERM, &action, NULL);
    if (!strcmp(mode, "serve")) return serve(more);
    if (!strcmp(mode, "report")) return report();
    if (!strcmp(mode, "forbidden")) return forbidden();
    if (!strcmp(mode, "eat")) return eat(atoi(more));
    if (!strcmp(mode, "fork")) return fork_many(atoi(more));
    if (!strcmp(mode, "chatter")) return chatter(atoi(more), count > 3 ? atoi(words[3]) : 0);
    if (!strcmp(mode, "flood")) return flood(atoi(more));
    if (!strcmp(mode, "echo")) return echo();
    if (!strcmp(mode, "burn")) return burn(atoi(more));
    if (!strcmp(mode, "exit")) { fprintf(stderr, "cannot go on\n"); return atoi(more); }
    if (!strcmp(mode, "wait")) return wait_for_term();
    if (!strcmp(mode, "stubborn")) { signal(SIGTERM, SIG_IGN); while (1) pause(); }
    fprintf(stderr, "unknown mode %s\n", mode);
    return 64;
}
