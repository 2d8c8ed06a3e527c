#!/usr/bin/env bash
# runtests: timeout=900
# SPDX-License-Identifier: MIT
#
# The simulator must find every known mistake that is put back, within the schedules that each states,
# and must not find the canary.
exec scripts/mutants
