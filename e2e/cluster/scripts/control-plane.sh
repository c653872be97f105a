#!/bin/sh
# The first process of a cluster: the network, the control plane, and the nodes as nested trees.
# usage: control-plane.sh RUN
#
# Standard input is the tether to the process that started the cluster. When it closes, the cluster ends, so that a crash of
# a test or Ctrl-C leaves nothing behind. A line "stay" cuts the tether: the cluster then runs until `down`.
set -eu
RUN=$1
. "$RUN/scripts/lib.sh"
trap 'exit 1' TERM
exec 3<&0
( { read -r word && [ "$word" = stay ]; } || kill -TERM 1 ) <&3 &
exec 3<&-

private_mounts
private_folder "$RUN/etcd"
forward_packets
ip link add br0 type bridge
ip addr add 10.243.0.1/24 dev br0
ip link set br0 up
# Without a route, a packet to a ClusterIP is rejected before kube-proxy's rule rewrites it.
ip route add 10.96.0.0/16 dev br0
# Frames between the nodes cross this bridge. The nodes have their own firewall rules.
[ ! -e /proc/sys/net/bridge/bridge-nf-call-iptables ] || echo 0 >/proc/sys/net/bridge/bridge-nf-call-iptables

daemon etcd etcd --name cluster --data-dir "$RUN/etcd" --unsafe-no-fsync --log-level warn \
    --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 \
    --listen-peer-urls http://127.0.0.1:2380 --initial-advertise-peer-urls http://127.0.0.1:2380 \
    --initial-cluster cluster=http://127.0.0.1:2380

pki=$RUN/pki
daemon kube-apiserver kube-apiserver --etcd-servers http://127.0.0.1:2379 \
    --advertise-address 10.243.0.1 --secure-port 6443 \
    --tls-cert-file "$pki/kube-apiserver.crt" --tls-private-key-file "$pki/kube-apiserver.key" \
    --client-ca-file "$pki/ca.crt" --authorization-mode Node,RBAC --enable-admission-plugins NodeRestriction \
    --service-account-issuer https://kubernetes.default.svc.cluster.local \
    --service-account-key-file "$pki/service-accounts.pub" --service-account-signing-key-file "$pki/service-accounts.key" \
    --service-cluster-ip-range 10.96.0.0/16 --allow-privileged \
    --kubelet-client-certificate "$pki/admin.crt" --kubelet-client-key "$pki/admin.key" \
    --kubelet-preferred-address-types InternalIP

for n in $NODES; do
    unshare --net --mount --pid --fork --kill-child -- sh "$RUN/scripts/node.sh" "$RUN" "$n" >"$RUN/logs/node$n.log" 2>&1 &
    node=$!
    until [ -e "$RUN/node$n/network-wanted" ]; do sleep 0.05; done
    ip link add "v$n" type veth peer name eth0 netns $node
    ip link set "v$n" master br0
    ip link set "v$n" up
    ip route add "10.244.$n.0/24" via "10.243.0.1$n"
done

await_api_server
# The default rate limits make the controllers wait three seconds at start.
daemon kube-controller-manager kube-controller-manager --kubeconfig "$RUN/kubeconfigs/kube-controller-manager" \
    --leader-elect=false --service-account-private-key-file "$pki/service-accounts.key" --root-ca-file "$pki/ca.crt" \
    --use-service-account-credentials --node-monitor-grace-period 20s --kube-api-qps 500 --kube-api-burst 1000
daemon kube-scheduler kube-scheduler --kubeconfig "$RUN/kubeconfigs/kube-scheduler" --leader-elect=false \
    --kube-api-qps 500 --kube-api-burst 1000
# Routes ClusterIPs for the tests. kube-proxy waits half a minute for a node with its name, so it gets the name of a node
# that exists. Only node-local traffic depends on the name.
daemon kube-proxy kube-proxy --config "$RUN/kube-proxy.yaml" --hostname-override node1
wait
