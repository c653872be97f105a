#!/bin/sh
# Runs etcd and an API server (and optionally the controller manager) until standard input closes, and then removes their
# folder. Standard input closes when the calling process ends for any reason. Before that, its lines are commands: `kill` kills the
# API server, `start` starts it again.
# usage: api-server.sh DIR PORT ETCD_PORT ETCD_PEER_PORT CONTROLLERS
set -u
DIR=$1 PORT=$2 ETCD=http://127.0.0.1:$3 PEER=http://127.0.0.1:$4 CONTROLLERS=$5
pids=

daemon() {
    "$@" >"$DIR/$1.log" 2>&1 </dev/null 3<&- &
    pids="$pids $!"
}

exec 3<&0
daemon etcd --name api --data-dir "$DIR/etcd" --unsafe-no-fsync --log-level warn \
    --listen-client-urls "$ETCD" --advertise-client-urls "$ETCD" \
    --listen-peer-urls "$PEER" --initial-advertise-peer-urls "$PEER" --initial-cluster "api=$PEER"
# The audit log has one line per request, without bodies.
echo '{"apiVersion":"audit.k8s.io/v1","kind":"Policy","omitStages":["RequestReceived"],"rules":[{"level":"Metadata"}]}' >"$DIR/audit-policy"
# No node runs pods here, and no controller creates service accounts for them.
api_server() {
    kube-apiserver --etcd-servers "$ETCD" --bind-address 127.0.0.1 --advertise-address 127.0.0.1 --secure-port "$PORT" \
        --tls-cert-file "$DIR/pki/kube-apiserver.crt" --tls-private-key-file "$DIR/pki/kube-apiserver.key" \
        --client-ca-file "$DIR/pki/ca.crt" --authorization-mode RBAC --allow-privileged \
        --service-account-issuer https://kubernetes.default.svc.cluster.local \
        --service-account-key-file "$DIR/pki/service-accounts.pub" \
        --service-account-signing-key-file "$DIR/pki/service-accounts.key" --service-cluster-ip-range 10.96.0.0/16 \
        --audit-policy-file "$DIR/audit-policy" --audit-log-path "$DIR/audit.log" \
        --endpoint-reconciler-type none --disable-admission-plugins ServiceAccount >>"$DIR/kube-apiserver.log" 2>&1 </dev/null 3<&- &
    api=$!
}
api_server
if [ "$CONTROLLERS" = yes ]; then
    (
        until kubectl --kubeconfig "$DIR/kubeconfig" get --raw /readyz >/dev/null 2>&1; do sleep 0.1; done
        exec kube-controller-manager --kubeconfig "$DIR/kubeconfig" --leader-elect=false --secure-port 0 \
            --service-account-private-key-file "$DIR/pki/service-accounts.key" --root-ca-file "$DIR/pki/ca.crt"
    ) >"$DIR/kube-controller-manager.log" 2>&1 </dev/null 3<&- &
    pids="$pids $!"
fi

# The end of standard input is the signal to end. A program that has ended shows as a failing API.
while read -r command <&3; do
    case $command in
    kill) kill -KILL "$api" && wait "$api" ;;
    start) api_server ;;
    esac
done 2>/dev/null
kill -KILL $pids "$api" 2>/dev/null
wait
rm -rf "$DIR"
