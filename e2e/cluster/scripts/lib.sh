# Functions of the control plane and the nodes. To be sourced with RUN set.

# Runs a program in the background with its own log. Programs of a cluster do not end by themselves. If one does, that is
# recorded, so that a process that waits for the cluster fails at once instead of after a timeout.
daemon() {
    name=$1
    shift
    (
        status=0
        "$@" >"$RUN/logs/$name.log" 2>&1 </dev/null || status=$?
        echo "$name $status" >>"$RUN/ended"
    ) &
}

# Mounts a folder in memory, which is removed with the mount namespace. Removing the thousands of files of a few images from
# a disk takes up to half a minute if the file system discards freed blocks.
private_folder() {
    mount -t tmpfs -o mode=755 tmpfs "$1"
}

# Prepares this mount namespace for a container runtime without changing files of the host: the usual folders of the
# programs are in memory and are removed with the namespace.
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
