// The definitions of kinds that other projects own, pinned. No program is built from them.
module vmcp.dev/e2e/cluster/definitions

go 1.26.0

require (
	github.com/prometheus-operator/prometheus-operator v0.85.0
	sigs.k8s.io/gateway-api v1.6.3
)
