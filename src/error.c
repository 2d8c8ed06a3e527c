/* SPDX-License-Identifier: MIT */
/* What the library's negative answers mean, in its own terms rather than the system's. */
#include "internal.h"

const char *vac_version(void)
{
	return VAC_VERSION;
}

const char *vac_strerror(int err)
{
	switch (err < 0 ? -(long)err : err) {
	case 0: return "success";
	case EPERM: return "not possible in a child after fork()";
	case ENOENT: return "no such block";
	case EIO: return "the output could not be written";
	case EAGAIN: return "held for a moment by another thread";
	case ENOMEM: return "not enough memory, or nothing is mapped there";
	case EFAULT: return "a part of the range is not mapped, or does not allow this access";
	case VAC__EHELD: return "held by somebody outside the engine";
	case EBUSY: return "held: pinned memory, or another operation on the same block";
	case EEXIST: return "something is there already";
	case EINVAL: return "an argument is out of its range, misaligned, or unknown";
	case EMFILE:
	case ENFILE: return "too many open files";
	case ENOSPC: return "the configured limit is reached";
	case ERANGE: return "no such element";
	case EBADF: return "not an open descriptor";
	case EROFS: return "its file has been sealed and cannot be written any more";
	case EALREADY: return "already in that state";
	case ENOBUFS: return "the host's limit on mappings is reached";
	case EOVERFLOW: return "too many pins on one page";
	case EOPNOTSUPP: return "not supported on this host or by this version";
	case ETIMEDOUT: return "the deadline passed";
	case ECANCELED: return "cancelled";
	case ELOOP: return "a part of the path is a symbolic link";
	case EACCES:
		return "not allowed: userfaultfd by the host, or a directory that is not of this user alone";
	case EADDRINUSE: return "somebody listens there already";
	case EUCLEAN: return "an invariant is violated";
	default: return "unexpected error of the host";
	}
}
