# What the control plane and the nodes have in common. Sourced, with RUN set.

# Runs a program in the background with a log of its own. No program of a cluster ends by itself, so one that does is
# recorded, and whoever waits for the cluster gives up at once instead of at a timeout.
daemon() {
    name=$1
    shift
    (
        status=0
        "$@" >"$RUN/logs/$name.log" 2>&1 </dev/null || status=$?
        echo "$name $status" >>"$RUN/ended"
    ) &
}

# A folder in memory, which goes with the mount namespace. Removing the thousands of files of a few images from a disk
# takes up to half a minute where the file system discards what it frees.
private_folder() {
    mount -t tmpfs -o mode=755 tmpfs "$1"
}

# Makes this mount namespace usable for a container runtime without changing a file of the host: whatever the programs
# write to their customary folders lands in memory and goes with the namespace.
private_mounts() {
    mount -t proc proc /proc
    mount --make-rshared /
    for dir in /run /var/lib /var/log; do
        private_folder $dir
    done
    mount --make-rshared /
    mkdir -p /run/lock
}

forward_packets() {
    ip link set lo up
    echo 1 >/proc/sys/net/ipv4/ip_forward
    echo 1 >/proc/sys/net/ipv4/conf/all/route_localnet
}

await_api_server() {
    until kubectl --kubeconfig "$RUN/kubeconfig" get --raw /readyz >/dev/null 2>&1; do sleep 0.1; done
}
