#!/usr/bin/env bash
# Power this machine off when no Ray job has been running for so many minutes (its argument; 60 by default).
set -u
idle=0
while sleep 60; do
  if ray job list 2>/dev/null | grep -Eq 'RUNNING|PENDING'; then idle=0; else idle=$((idle + 1)); fi
  if [ "$idle" -ge "${1:-60}" ]; then sudo shutdown -h now; fi
done
