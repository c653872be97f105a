#!/bin/sh
# Manages one cluster from outside its namespaces: creates its control groups, starts its process tree, and removes the
# remains after the tree has ended for any reason. Standard input is the tether, see control-plane.sh.
# usage: tree.sh RUN; CGROUP names the control group of the cluster, NODES lists the numbers of its nodes.
set -u
RUN=$1
exec 3<&0

# cgroup v1: the kubelet needs its root in every hierarchy, and a cpuset group is unusable until it has cpus and mems.
for hierarchy in /sys/fs/cgroup/*/; do
    for group in "$CGROUP" $(printf "$CGROUP/node%s " $NODES); do
        dir=$hierarchy$group
        mkdir "$dir" 2>/dev/null || continue
        for file in cpuset.cpus cpuset.mems; do
            [ -e "$dir/$file" ] && cat "$(dirname "$dir")/$file" >"$dir/$file"
        done
    done
done

# A SIGKILL of the first process ends everything: the kernel kills all of a pid namespace with it, and the mounts,
# interfaces and firewall rules go with the last process of their namespaces. Then this unshare ends, and not before.
unshare --net --mount --pid --fork --kill-child -- sh "$RUN/scripts/control-plane.sh" "$RUN" \
    <&3 3<&- >"$RUN/logs/control-plane.log" 2>&1 &
tree=$!
trap 'kill -KILL $tree 2>/dev/null' HUP INT TERM
# A signal ends `wait` early.
while kill -0 $tree 2>/dev/null; do wait $tree; done
echo "control-plane $?" >>"$RUN/ended"

sh "$RUN/scripts/clean.sh"
# The process at the other end of the tether may read the logs first.
cat <&3 >/dev/null
rm -rf "$RUN"
