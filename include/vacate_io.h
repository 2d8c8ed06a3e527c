/* SPDX-License-Identifier: MIT */
/*
 * SYSTEM CALLS ON POOL MEMORY: a part of vacate.h, which includes it.
 */
#ifndef VACATE_IO_H
#define VACATE_IO_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct vac_space;

/*
 * The rule: under the userfaultfd guard the kernel may touch pool memory at any time, as a thread
 * may. Under SIGSEGV a system call that reads a page which is not filled in, or writes one which is
 * not filled in, swapped out, leaving, shared with a snapshot or not yet writable, gets EFAULT there. vacate(7) lists some eighty cases
 * one by one, as tested. Two cures: vac_prefault() makes it unlikely, a pin impossible; and for the
 * common calls there are the functions below, which need neither.
 */

/*
 * Fill [addr, addr+len) in and have the host show all of it with the rights prot (VAC_PROT_READ,
 * with or without VAC_PROT_WRITE). Pages that are leaving are waited for. No alignment needed.
 *
 * What it guarantees: when it answers 0, one look over the whole range has found each page present,
 * with these rights, and not leaving. Nothing is held: a system call on the range right afterwards
 * succeeds unless, between that look and the call's own access, a page of the range begins to leave
 * (or is unmapped, protected, dropped). Where that must not happen, pin; where it merely must not
 * fail, call again on EFAULT, if the call has not consumed anything by then.
 *
 * -EINVAL (length 0 or overflowing, prot), -EFAULT (outside the space, or a part is not mapped or
 * does not allow the access), -ENOMEM, -EAGAIN (page after page of the range was leaving whenever it
 * was looked at: pin it).
 */
int vac_prefault(struct vac_space *space, const void *addr, size_t len, int prot);

/*
 * read(2), write(2), recv(2), send(2) and their kin, with the memory that they are given anywhere:
 * in pools, of any guard, several in one call, or outside. They answer what the call would, but
 * errors as a negative value; errno is not for use. On Linux only. int64_t stands for ssize_t and
 * off_t, uint32_t for socklen_t.
 *
 * The data is moved under a pin whose owner is the function's name ("vac_recv"), never for longer
 * than the data that is there takes: where the descriptor has to be waited for, the thread waits
 * without a pin. So an idle connection keeps no block. Only files and block devices are pinned for
 * the whole call, 16 MiB of a read at a time: what they take is bounded, by the storage. Where there
 * is no memory of a pool, and under the userfaultfd guard (but for files, which may be O_DIRECT),
 * it is the plain call.
 *
 * As in the plain call: blocking or not, by the descriptor or MSG_DONTWAIT; SO_RCVTIMEO and
 * SO_SNDTIMEO; EINTR, and the restart of the call after a handler with SA_RESTART; partial results;
 * MSG_WAITALL; MSG_PEEK; control messages; SIGPIPE; file offsets; atomic writes to pipes and of
 * O_APPEND. A datagram is never lost to a page that is absent.
 *
 * Not as in the plain call:
 *  - pool memory that is unmapped or forbids the access is -EFAULT at once, even if the data would
 *    not have reached it; and the whole buffer may be filled in, even if less is read;
 *  - at most 1 MiB comes from one call where the descriptor streams (sockets without MSG_WAITALL,
 *    pipes), and from terminals, inotify and other special files 256 KiB, which go through a
 *    buffer, as does what has to be waited for in a write;
 *  - SO_RCVLOWAT does not hold back less data; MSG_PEEK with MSG_WAITALL, or SO_PEEK_OFF, does not
 *    wait for more than it finds; a time-out starts anew when another thread has taken the data;
 *  - an error that ends a transfer of which a part was done is not always reported again by the next
 *    call, except as the state it left (end of file, EPIPE);
 *  - -EOPNOTSUPP for MSG_ZEROCOPY with pool memory: the kernel keeps such memory after the call, so
 *    it needs a pin of your own;
 *  - no cancellation point; a signal handler must not leave the call by a jump; -ENOMEM, -EOVERFLOW
 *    as of vac_pin().
 * The structures and names themselves (iovec, msghdr, address, control) may lie in pool memory too.
 */
struct iovec;
struct msghdr;
struct sockaddr;

int64_t vac_read(int fd, void *buf, size_t len);
int64_t vac_pread(int fd, void *buf, size_t len, int64_t off);
int64_t vac_readv(int fd, const struct iovec *iov, int n);
int64_t vac_preadv(int fd, const struct iovec *iov, int n, int64_t off);
int64_t vac_write(int fd, const void *buf, size_t len);
int64_t vac_pwrite(int fd, const void *buf, size_t len, int64_t off);
int64_t vac_writev(int fd, const struct iovec *iov, int n);
int64_t vac_pwritev(int fd, const struct iovec *iov, int n, int64_t off);

int64_t vac_recv(int fd, void *buf, size_t len, int flags);
int64_t vac_recvfrom(int fd, void *buf, size_t len, int flags, struct sockaddr *from,
		     uint32_t *from_len);
int64_t vac_recvmsg(int fd, struct msghdr *msg, int flags);
int64_t vac_send(int fd, const void *buf, size_t len, int flags);
int64_t vac_sendto(int fd, const void *buf, size_t len, int flags, const struct sockaddr *to,
		   uint32_t to_len);
int64_t vac_sendmsg(int fd, const struct msghdr *msg, int flags);

#ifdef __cplusplus
}
#endif

#endif /* VACATE_IO_H */
