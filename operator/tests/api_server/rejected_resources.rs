//! Virtual servers and groups that the API server must reject, each with the field and a part of the message.

use serde_json::{Value as Json, json};

pub(crate) const SERVER: &str = "VirtualMCPServer";
pub(crate) const ENTRY: &str = "MCPServerEntry";
pub(crate) const GROUP: &str = "MCPGroup";

/// An invalid resource: its kind, its spec without what is always required, the field that the message names, and a part of the message.
pub(crate) type BadResource = (&'static str, Json, &'static str, &'static str);

/// Virtual servers and groups that the API server rejects.
pub(crate) fn rejected_servers() -> Vec<BadResource> {
    let storage = |storage: Json| json!({"sessionStorage": storage});
    let redis = |fields: Json| {
        let mut storage = json!({"provider": "redis", "address": "redis:6379"});
        storage
            .as_object_mut()
            .unwrap()
            .extend(fields.as_object().unwrap().clone());
        json!({"sessionStorage": storage})
    };
    let oidc = |fields: Json| {
        let mut oidc =
            json!({"issuer": "https://id.example.com", "audience": ["https://tools.example.com/mcp"]});
        oidc.as_object_mut()
            .unwrap()
            .extend(fields.as_object().unwrap().clone());
        json!({"incomingAuth": {"type": "oidc", "oidc": oidc}})
    };
    let route = |fields: Json| {
        let mut route = json!({"parentRefs": [{"name": "public"}], "hostnames": ["tools.example.com"]});
        route
            .as_object_mut()
            .unwrap()
            .extend(fields.as_object().unwrap().clone());
        json!({"httpRoute": route})
    };
    let key = || json!({"name": "a", "key": "b"});
    vec![
        // Session storage
        (
            SERVER,
            storage(json!({"address": "redis:6379"})),
            "spec.sessionStorage.provider",
            "Required value",
        ),
        (
            SERVER,
            storage(json!({"provider": "etcd"})),
            "spec.sessionStorage.provider",
            "supported values",
        ),
        (
            SERVER,
            storage(json!({"provider": "redis"})),
            "spec.sessionStorage.address",
            "needs the server's host:port",
        ),
        (
            SERVER,
            storage(json!({"provider": "redis", "address": "redis"})),
            "spec.sessionStorage.address",
            "expected host:port, for example redis.tools.svc:6379",
        ),
        (
            SERVER,
            storage(json!({"provider": "redis", "address": "redis://r:1"})),
            "spec.sessionStorage.address",
            "expected host:port",
        ),
        (
            SERVER,
            storage(json!({"provider": "memory", "address": "r:1"})),
            "spec.sessionStorage.address",
            "has no effect with `provider: memory`",
        ),
        (
            SERVER,
            storage(json!({"provider": "memory", "onStoreOutage": "refuse"})),
            "spec.sessionStorage.onStoreOutage",
            "has no effect with `provider: memory`",
        ),
        (
            SERVER,
            storage(json!({"provider": "memory", "passwordRef": {"name": "a", "key": "b"}})),
            "spec.sessionStorage.passwordRef",
            "has no effect with `provider: memory`",
        ),
        (
            SERVER,
            redis(json!({"sentinel": {"masterName": "m", "addresses": ["s:1"]}})),
            "spec.sessionStorage",
            "set only one of `address`, `sentinel` and `cluster`",
        ),
        (
            SERVER,
            storage(json!({"provider": "redis", "sentinel": {"masterName": "", "addresses": ["s:1"]}})),
            "spec.sessionStorage.sentinel.masterName",
            "use the name in the sentinels'",
        ),
        (
            SERVER,
            storage(json!({"provider": "redis", "sentinel": {"masterName": "m", "addresses": []}})),
            "spec.sessionStorage.sentinel.addresses",
            "add at least one host:port",
        ),
        (
            SERVER,
            storage(json!({"provider": "redis", "cluster": {"addresses": ["r:1", "s"]}})),
            "spec.sessionStorage.cluster.addresses",
            "expected host:port",
        ),
        (
            SERVER,
            storage(json!({"provider": "redis", "cluster": {"addresses": ["r:1"]}, "db": 1})),
            "spec.sessionStorage.db",
            "a Redis cluster has only database 0",
        ),
        (
            SERVER,
            redis(json!({"db": 65536})),
            "spec.sessionStorage.db",
            "less than or equal to 65535",
        ),
        (
            SERVER,
            redis(json!({"keyPrefix": "{a}"})),
            "spec.sessionStorage.keyPrefix",
            "braces are not allowed",
        ),
        (
            SERVER,
            redis(json!({"username": "a b"})),
            "spec.sessionStorage.username",
            "without white space",
        ),
        (
            SERVER,
            redis(json!({"username": "me"})),
            "spec.sessionStorage.passwordRef",
            "a Redis user needs a password",
        ),
        (
            SERVER,
            redis(json!({"ttl": "soon"})),
            "spec.sessionStorage.ttl",
            "expected a duration with units, for example 250ms, 5s, 30m or 1h30m",
        ),
        (
            SERVER,
            redis(json!({"ttl": 5})),
            "spec.sessionStorage.ttl",
            "expected string",
        ),
        (
            SERVER,
            redis(json!({"ttl": "0s"})),
            "spec.sessionStorage.ttl",
            "must be longer than 0s",
        ),
        (
            SERVER,
            redis(json!({"ttl": "25h"})),
            "spec.sessionStorage.ttl",
            "must not be longer than `maxLifetime`",
        ),
        (
            SERVER,
            redis(json!({"maxLifetime": "9000h"})),
            "spec.sessionStorage.maxLifetime",
            "must be at most 366 days",
        ),
        (
            SERVER,
            redis(json!({"commandTimeout": "0s"})),
            "spec.sessionStorage.commandTimeout",
            "must be longer than 0s",
        ),
        (
            SERVER,
            redis(json!({"passwordRef": {"name": "?x=", "key": "password"}})),
            "spec.sessionStorage.passwordRef.name",
            "must be the name of an object",
        ),
        (
            SERVER,
            redis(json!({"passwordRef": {"name": "redis", "key": "../x"}})),
            "spec.sessionStorage.passwordRef.key",
            "must be the key of a Secret",
        ),
        (
            SERVER,
            redis(json!({"passwordFile": "/etc/shadow"})),
            "spec.sessionStorage.passwordFile",
            "field not declared in schema",
        ),
        (
            SERVER,
            storage(json!({"provider": "memory", "tls": {}})),
            "spec.sessionStorage.tls",
            "has no effect with `provider: memory`",
        ),
        (
            SERVER,
            redis(json!({"tls": {"serverName": "https://redis"}})),
            "spec.sessionStorage.tls.serverName",
            "expected a DNS name, for example redis.tools.svc",
        ),
        (
            SERVER,
            redis(json!({"tls": {"insecureSkipVerify": true, "caBundleRef": {"secretKeyRef": key()}}})),
            "spec.sessionStorage.tls.insecureSkipVerify",
            "accepts every certificate, so trusted authorities and `serverName` have no effect",
        ),
        (
            SERVER,
            redis(json!({"tls": {"caBundleRef": {}}})),
            "spec.sessionStorage.tls.caBundleRef",
            "needs exactly one of `configMapKeyRef` and `secretKeyRef`",
        ),
        (
            SERVER,
            redis(json!({"tls": {"caFile": "/etc/ca.crt"}})),
            "spec.sessionStorage.tls.caFile",
            "field not declared in schema",
        ),
        // Authentication
        (
            SERVER,
            oidc(json!({"caBundleRef": {"secretKeyRef": key(), "configMapKeyRef": key()}})),
            "spec.incomingAuth.oidc.caBundleRef",
            "needs exactly one of `configMapKeyRef` and `secretKeyRef`",
        ),
        (
            SERVER,
            oidc(json!({"caBundlePath": "/etc/ca.crt"})),
            "spec.incomingAuth.oidc.caBundlePath",
            "field not declared in schema",
        ),
        (
            SERVER,
            json!({"incomingAuth": {"type": "saml"}}),
            "spec.incomingAuth.type",
            "supported values",
        ),
        (
            SERVER,
            json!({"incomingAuth": {"type": "oidc"}}),
            "spec.incomingAuth.oidc",
            "needs the issuer and the audience",
        ),
        (
            SERVER,
            json!({"incomingAuth": {"oidc": {"issuer": "https://i", "audience": ["https://a"]}}}),
            "spec.incomingAuth.oidc",
            "has no effect with `type: anonymous`",
        ),
        (
            SERVER,
            oidc(json!({"issuer": "id.example.com"})),
            "spec.incomingAuth.oidc.issuer",
            "expected an http or https URL",
        ),
        (
            SERVER,
            oidc(json!({"issuer": "http://id.example.com"})),
            "spec.incomingAuth.oidc.issuer",
            "`insecureAllowHttp: true` accepts http",
        ),
        (
            SERVER,
            oidc(json!({"issuer": "https://i?x=y"})),
            "spec.incomingAuth.oidc.issuer",
            "an issuer has no query",
        ),
        (
            SERVER,
            oidc(json!({"jwksUrl": "http://i/keys"})),
            "spec.incomingAuth.oidc.jwksUrl",
            "expected https",
        ),
        (
            SERVER,
            oidc(json!({"audience": []})),
            "spec.incomingAuth.oidc.audience",
            "name the audience that tokens must have",
        ),
        (
            SERVER,
            oidc(json!({"audience": "https://a"})),
            "spec.incomingAuth.oidc.audience",
            "expected list",
        ),
        (
            SERVER,
            oidc(json!({"audience": ["tools"]})),
            "spec.incomingAuth.oidc.resource",
            "the first audience is not a URL",
        ),
        (
            SERVER,
            oidc(json!({"resource": "https://a/mcp?x"})),
            "spec.incomingAuth.oidc.resource",
            "without query or fragment",
        ),
        (
            SERVER,
            oidc(json!({"scopes": ["a b"]})),
            "spec.incomingAuth.oidc.scopes",
            "a scope is printable ASCII",
        ),
        (
            SERVER,
            oidc(json!({"algorithms": ["HS256"]})),
            "spec.incomingAuth.oidc.algorithms[0]",
            "supported values",
        ),
        (
            SERVER,
            oidc(json!({"algorithms": []})),
            "spec.incomingAuth.oidc.algorithms",
            "name at least one signing algorithm",
        ),
        (
            SERVER,
            oidc(json!({"clockLeeway": "6m"})),
            "spec.incomingAuth.oidc.clockLeeway",
            "the maximum is 5m",
        ),
        (
            SERVER,
            oidc(json!({"keyRefresh": "10ms"})),
            "spec.incomingAuth.oidc.keyRefresh",
            "the minimum is 1s",
        ),
        // Aggregation
        (
            SERVER,
            json!({"aggregation": {"strategy": "random"}}),
            "spec.aggregation.strategy",
            "supported values",
        ),
        (
            SERVER,
            json!({"aggregation": {"strategy": "none", "prefixFormat": "x_"}}),
            "spec.aggregation.prefixFormat",
            "set `strategy: prefix` or remove it",
        ),
        (
            SERVER,
            json!({"aggregation": {"prefixFormat": "{backend}:"}}),
            "spec.aggregation.prefixFormat",
            "A-Z a-z 0-9 _ . / -",
        ),
        (
            SERVER,
            json!({"aggregation": {"strategy": "priority"}}),
            "spec.aggregation.priority",
            "needs the backends' names in order of priority",
        ),
        (
            SERVER,
            json!({"aggregation": {"priority": ["a"]}}),
            "spec.aggregation.priority",
            "set `strategy: priority` or remove it",
        ),
        (
            SERVER,
            json!({"aggregation": {"strategy": "priority", "priority": ["A B"]}}),
            "spec.aggregation.priority",
            "expected the name of a backend",
        ),
        (
            SERVER,
            json!({"aggregation": {"strategy": "priority", "priority": ["a", "a"]}}),
            "spec.aggregation.priority",
            "list each backend once",
        ),
        (
            SERVER,
            json!({"aggregation": {"refresh": "10ms"}}),
            "spec.aggregation.refresh",
            "the minimum is 1s",
        ),
        (
            SERVER,
            json!({"aggregation": {"pageSize": 0}}),
            "spec.aggregation.pageSize",
            "greater than or equal to 1",
        ),
        (
            SERVER,
            json!({"aggregation": {"capabilities": ["magic"]}}),
            "spec.aggregation.capabilities[0]",
            "supported values",
        ),
        // The rest of the hot part
        (
            SERVER,
            json!({"serverInfo": {"name": ""}}),
            "spec.serverInfo.name",
            "remove it to use the default",
        ),
        (
            SERVER,
            json!({"allowedHosts": ["a", "http://b"]}),
            "spec.allowedHosts",
            "expected a host name or address",
        ),
        (
            SERVER,
            json!({"allowedOrigins": ["*"]}),
            "spec.allowedOrigins",
            "there is no wildcard",
        ),
        (
            SERVER,
            json!({"limits": {"requestBytes": 5}}),
            "spec.limits.requestBytes",
            "greater than or equal to 1024",
        ),
        (
            SERVER,
            json!({"limits": {"requestBytes": 2048, "requestBytesInFlight": 2047}}),
            "spec.limits.requestBytesInFlight",
            "must be at least `requestBytes`",
        ),
        (
            SERVER,
            json!({"limits": {"bufferedBytes": 1_048_575}}),
            "spec.limits.bufferedBytes",
            "must be at least 1048576 and `requestBytes`",
        ),
        (
            SERVER,
            json!({"limits": {"sessionsPerPrincipal": 0}}),
            "spec.limits.sessionsPerPrincipal",
            "greater than or equal to 1",
        ),
        (
            SERVER,
            json!({"backends": []}),
            "spec.backends",
            "field not declared in schema",
        ),
        // Operation
        (
            SERVER,
            json!({"replicas": -1}),
            "spec.replicas",
            "greater than or equal to 0",
        ),
        (
            SERVER,
            json!({"sessionAffinity": "Cookie"}),
            "spec.sessionAffinity",
            "supported values",
        ),
        (
            SERVER,
            json!({"image": "a b"}),
            "spec.image",
            "image must be an image reference",
        ),
        (
            SERVER,
            json!({"operational": {"logLevel": "loud"}}),
            "spec.operational.logLevel",
            "supported values",
        ),
        (
            SERVER,
            json!({"operational": {"accessLog": {"sample": 2}}}),
            "spec.operational.accessLog.sample",
            "less than or equal to 1",
        ),
        (
            SERVER,
            json!({"operational": {"drainDelay": "5"}}),
            "spec.operational.drainDelay",
            "expected a duration with units",
        ),
        (
            SERVER,
            json!({"operational": {"idleTimeout": "0s"}}),
            "spec.operational.idleTimeout",
            "allowed are 1s to 24h",
        ),
        (
            SERVER,
            json!({"operational": {"timeouts": {"call": "25h"}}}),
            "spec.operational.timeouts.call",
            "allowed are 1ms to 24h",
        ),
        // Pods and the objects around them
        (
            SERVER,
            json!({"imagePullSecrets": [{"name": "A"}]}),
            "spec.imagePullSecrets[0].name",
            "must be the name of an object",
        ),
        (
            SERVER,
            json!({"serviceAccountName": "a/b"}),
            "spec.serviceAccountName",
            "must be the name of an object",
        ),
        (
            SERVER,
            json!({"service": {"type": "ExternalName"}}),
            "spec.service.type",
            "supported values",
        ),
        (
            SERVER,
            json!({"service": {"loadBalancerClass": "a/b"}}),
            "spec.service.loadBalancerClass",
            "has no effect without `type: LoadBalancer`",
        ),
        (
            SERVER,
            json!({"service": {"labels": {"app.kubernetes.io/name": "x"}}}),
            "spec.service.labels",
            "the operator sets the labels",
        ),
        (
            SERVER,
            json!({"podDisruptionBudget": {"maxUnavailable": 1, "minAvailable": 1}}),
            "spec.podDisruptionBudget",
            "set only one of",
        ),
        (
            SERVER,
            json!({"autoscaling": {"minReplicas": 1}}),
            "spec.autoscaling.maxReplicas",
            "Required value",
        ),
        (
            SERVER,
            json!({"autoscaling": {"minReplicas": 3, "maxReplicas": 2}}),
            "spec.autoscaling.minReplicas",
            "must not be greater than `maxReplicas`",
        ),
        (
            SERVER,
            json!({"autoscaling": {"maxReplicas": 2}, "replicas": 2}),
            "spec.replicas",
            "has no effect with `autoscaling`",
        ),
        (
            SERVER,
            json!({"networkPolicy": {"client": []}}),
            "spec.networkPolicy.client",
            "field not declared in schema",
        ),
        (
            SERVER,
            json!({"autoscaling": {"maxReplicas": 2, "targetRequestsPerPod": 0}}),
            "spec.autoscaling.targetRequestsPerPod",
            "greater than or equal to 1",
        ),
        // How the endpoint is reached
        (
            SERVER,
            json!({"tls": {}}),
            "spec.tls.certificateRef",
            "Required value",
        ),
        (
            SERVER,
            json!({"tls": {"certificateRef": {"name": "?x="}}}),
            "spec.tls.certificateRef.name",
            "must be the name of an object",
        ),
        (
            SERVER,
            route(json!({"parentRefs": []})),
            "spec.httpRoute.parentRefs",
            "should have at least 1 items",
        ),
        (
            SERVER,
            route(json!({"parentRefs": [{"namespace": "gateways"}]})),
            "spec.httpRoute.parentRefs[0].name",
            "Required value",
        ),
        (
            SERVER,
            route(json!({"parentRefs": [{"name": "public", "sectionName": "A_b"}]})),
            "spec.httpRoute.parentRefs[0].sectionName",
            "must be the name of a listener",
        ),
        (
            SERVER,
            route(json!({"parentRefs": [{"name": "public", "namespace": "a.b"}]})),
            "spec.httpRoute.parentRefs[0].namespace",
            "must be the name of a namespace",
        ),
        (
            SERVER,
            route(json!({"timeouts": {"request": "1m", "backendRequest": "90s"}})),
            "spec.httpRoute.timeouts.backendRequest",
            "must not be longer than `request`",
        ),
        (
            SERVER,
            route(json!({"hostnames": []})),
            "spec.httpRoute.hostnames",
            "should have at least 1 items",
        ),
        (
            SERVER,
            route(json!({"hostnames": ["*.example.com"]})),
            "spec.httpRoute.hostnames",
            "no port and no wildcard",
        ),
        (
            SERVER,
            route(json!({"path": "/team-a/mcp/"})),
            "spec.httpRoute.path",
            "no '/' at its end, for example /team-a/mcp",
        ),
        (
            SERVER,
            route(json!({"timeouts": {"request": "soon"}})),
            "spec.httpRoute.timeouts.request",
            "expected a duration with units",
        ),
        (
            SERVER,
            route(json!({"labels": {"vmcp.dev/x": "y"}})),
            "spec.httpRoute.labels",
            "the operator sets the labels",
        ),
        (
            SERVER,
            json!({"serviceMonitor": {"interval": 30}}),
            "spec.serviceMonitor.interval",
            "expected string",
        ),
        (
            SERVER,
            json!({"serviceMonitor": {"labels": {"app.kubernetes.io/name": "x"}}}),
            "spec.serviceMonitor.labels",
            "the operator sets the labels",
        ),
        // Groups
        (
            GROUP,
            json!({"selector": {"matchLabel": {}}}),
            "spec.selector.matchLabel",
            "field not declared in schema",
        ),
        (
            GROUP,
            json!({"selector": {"matchExpressions": [{"key": "team", "operator": "Like", "values": ["a"]}]}}),
            "spec.selector.matchExpressions[0].operator",
            "supported values",
        ),
        (
            GROUP,
            json!({"selector": {"matchExpressions": [{"key": "team", "operator": "In"}]}}),
            "spec.selector.matchExpressions[0].values",
            "need at least one value",
        ),
        (
            GROUP,
            json!({"selector": {"matchExpressions": [{"key": "a b", "operator": "Exists"}]}}),
            "spec.selector.matchExpressions[0].key",
            "must be the key of a label",
        ),
    ]
}
