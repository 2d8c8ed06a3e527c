/* SPDX-License-Identifier: MIT */
/* Parts of the JSON of the host verbs. New references; NULL: out of memory. */
#ifndef HOST_JSON_H
#define HOST_JSON_H

#include "host.h"

json_t *host_usage_json(const struct host *h, const struct host_usage *u);
json_t *host_block_json(const struct host *h, const struct host_block *b);

#endif
