#!/bin/sh
# Removes the control groups of a cluster after its processes have ended. Everything else is in its namespaces.
# usage: clean.sh; CGROUP names the cluster's control group.
set -u

tries=0
while [ $tries -lt 100 ]; do
    set -- /sys/fs/cgroup/*/"$CGROUP"
    [ -d "$1" ] || exit 0
    # The members of a pid namespace leave their groups a moment after its first process: an early rmdir says "busy".
    find "$@" -depth -type d -exec rmdir {} + 2>/dev/null
    tries=$((tries + 1))
    sleep 0.05
done
echo "these control groups have processes:" "$@" >&2
exit 1
