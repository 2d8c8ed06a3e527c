/* SPDX-License-Identifier: MIT */
/* vacate sim: the explorer has an engine of its own, so all that is here is the way to it. */
#include "cmd.h"
#include "sim/explore.h"

int cmd_sim(int argc, char **argv)
{
	return vac_sim_main(argc, argv);
}
