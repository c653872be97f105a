#!/bin/sh
# Holds etcd and an API server (and, on demand, the controller manager) for a process that wants them: they end, and
# their folder goes, when standard input closes, which it does when that process ends in any way.
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
# Every request leaves a line, without what it sent or got: a test sees who asked for what.
echo '{"apiVersion":"audit.k8s.io/v1","kind":"Policy","omitStages":["RequestReceived"],"rules":[{"level":"Metadata"}]}' >"$DIR/audit-policy"
# No node runs the pods here, and nobody makes the service accounts that they would have to name.
daemon kube-apiserver --etcd-servers "$ETCD" --bind-address 127.0.0.1 --advertise-address 127.0.0.1 --secure-port "$PORT" \
    --tls-cert-file "$DIR/pki/kube-apiserver.crt" --tls-private-key-file "$DIR/pki/kube-apiserver.key" \
    --client-ca-file "$DIR/pki/ca.crt" --authorization-mode RBAC --allow-privileged \
    --service-account-issuer https://kubernetes.default.svc.cluster.local \
    --service-account-key-file "$DIR/pki/service-accounts.pub" \
    --service-account-signing-key-file "$DIR/pki/service-accounts.key" --service-cluster-ip-range 10.96.0.0/16 \
    --audit-policy-file "$DIR/audit-policy" --audit-log-path "$DIR/audit.log" \
    --endpoint-reconciler-type none --disable-admission-plugins ServiceAccount
if [ "$CONTROLLERS" = yes ]; then
    (
        until kubectl --kubeconfig "$DIR/kubeconfig" get --raw /readyz >/dev/null 2>&1; do sleep 0.1; done
        exec kube-controller-manager --kubeconfig "$DIR/kubeconfig" --leader-elect=false --secure-port 0 \
            --service-account-private-key-file "$DIR/pki/service-accounts.key" --root-ca-file "$DIR/pki/ca.crt"
    ) >"$DIR/kube-controller-manager.log" 2>&1 </dev/null 3<&- &
    pids="$pids $!"
fi

# Not `wait`: the end of standard input is the signal, and a program that has ended shows as an API that does not answer.
cat <&3 >/dev/null
kill -KILL $pids 2>/dev/null
wait
rm -rf "$DIR"
