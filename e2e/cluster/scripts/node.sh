#!/bin/sh
# The first process of a node, which is a separate machine for Kubernetes.
# usage: node.sh RUN NUMBER
set -eu
RUN=$1
N=$2
NODE=$RUN/node$N
. "$RUN/scripts/lib.sh"

private_mounts
private_folder "$NODE/data"
# The kubelet sets these settings, which have no namespaces. It sees the values that it needs, and so does not change those
# of the host.
for setting in vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1 \
    kernel/keys/root_maxkeys=1000000 kernel/keys/root_maxbytes=25000000; do
    file=/run/sysctl/${setting%=*}
    mkdir -p "$(dirname "$file")"
    echo "${setting#*=}" >"$file"
    mount --bind "$file" "/proc/sys/${setting%=*}"
done

touch "$NODE/network-wanted"
until ip link show eth0 >/dev/null 2>&1; do sleep 0.05; done
forward_packets
ip addr add "10.243.0.1$N/24" dev eth0
ip link set eth0 up
ip route add default via 10.243.0.1
for other in $NODES; do
    [ "$other" = "$N" ] || ip route add "10.244.$other.0/24" via "10.243.0.1$other"
done
[ ! -e /proc/sys/net/bridge/bridge-nf-call-iptables ] || echo 1 >/proc/sys/net/bridge/bridge-nf-call-iptables

daemon "node$N-containerd" containerd --config "$NODE/containerd.toml"
until ctr version >/dev/null 2>&1; do sleep 0.05; done
for image in $IMAGES; do
    ctr -n k8s.io images import "$image"
done
await_api_server
daemon "node$N-kubelet" kubelet --config "$NODE/kubelet.yaml" --kubeconfig "$RUN/kubeconfigs/node$N" \
    --root-dir "$NODE/data/kubelet" --hostname-override "node$N" --node-ip "10.243.0.1$N"
# kube-proxy looks for its node once a second.
daemon "node$N-kube-proxy" kube-proxy --config "$RUN/kube-proxy.yaml" --hostname-override "node$N"
wait
