//! Virtual servers and groups that the API server must reject, each with the field and a part of the message.

use serde_json::{Value as Json, json};

pub(crate) const SERVER: &str = "VirtualMCPServer";
pub(crate) const ENTRY: &str = "MCPServerEntry";
pub(crate) const MCP_SERVER: &str = "MCPServer";
pub(crate) const GROUP: &str = "MCPGroup";

/// An invalid resource: its kind, its spec without what is always required, the field that the message names, and a part of the message.
pub(crate) type BadResource = (&'static str, Json, &'static str, &'static str);

/// The rows of one kind.
pub(crate) fn of_kind(kind: &'static str, rows: Vec<(Json, &'static str, &'static str)>) -> Vec<BadResource> {
    let of_kind = |(spec, field, message)| (kind, spec, field, message);
    rows.into_iter().map(of_kind).collect()
}

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
    let servers = vec![
        // Session storage
        (
            storage(json!({"address": "redis:6379"})),
            "spec.sessionStorage.provider",
            "Required value",
        ),
        (
            storage(json!({"provider": "etcd"})),
            "spec.sessionStorage.provider",
            "supported values",
        ),
        (
            storage(json!({"provider": "redis"})),
            "spec.sessionStorage.address",
            "needs the server's host:port",
        ),
        (
            storage(json!({"provider": "redis", "address": "redis"})),
            "spec.sessionStorage.address",
            "expected host:port, for example redis.tools.svc:6379",
        ),
        (
            storage(json!({"provider": "redis", "address": "redis://r:1"})),
            "spec.sessionStorage.address",
            "expected host:port",
        ),
        (
            storage(json!({"provider": "memory", "address": "r:1"})),
            "spec.sessionStorage.address",
            "has no effect with `provider: memory`",
        ),
        (
            storage(json!({"provider": "memory", "onStoreOutage": "refuse"})),
            "spec.sessionStorage.onStoreOutage",
            "has no effect with `provider: memory`",
        ),
        (
            storage(json!({"provider": "memory", "passwordRef": {"name": "a", "key": "b"}})),
            "spec.sessionStorage.passwordRef",
            "has no effect with `provider: memory`",
        ),
        (
            redis(json!({"sentinel": {"masterName": "m", "addresses": ["s:1"]}})),
            "spec.sessionStorage",
            "set only one of `address`, `sentinel` and `cluster`",
        ),
        (
            storage(json!({"provider": "redis", "sentinel": {"masterName": "", "addresses": ["s:1"]}})),
            "spec.sessionStorage.sentinel.masterName",
            "use the name in the sentinels'",
        ),
        (
            storage(
                json!({"provider": "redis", "sentinel": {"masterName": "my master", "addresses": ["s:1"]}}),
            ),
            "spec.sessionStorage.sentinel.masterName",
            "without white space",
        ),
        (
            storage(json!({"provider": "redis", "sentinel": {"masterName": "m", "addresses": []}})),
            "spec.sessionStorage.sentinel.addresses",
            "add at least one host:port",
        ),
        (
            storage(json!({"provider": "redis", "cluster": {"addresses": ["r:1", "s"]}})),
            "spec.sessionStorage.cluster.addresses",
            "expected host:port",
        ),
        (
            storage(json!({"provider": "redis", "cluster": {"addresses": ["r:1"]}, "db": 1})),
            "spec.sessionStorage.db",
            "a Redis cluster has only database 0",
        ),
        (
            redis(json!({"db": 65536})),
            "spec.sessionStorage.db",
            "less than or equal to 65535",
        ),
        (
            redis(json!({"keyPrefix": "{a}"})),
            "spec.sessionStorage.keyPrefix",
            "braces are not allowed",
        ),
        (
            redis(json!({"username": "a b"})),
            "spec.sessionStorage.username",
            "without white space",
        ),
        (
            redis(json!({"username": "me"})),
            "spec.sessionStorage.passwordRef",
            "a Redis user needs a password",
        ),
        (
            redis(json!({"ttl": "soon"})),
            "spec.sessionStorage.ttl",
            "expected a duration with units, for example 250ms, 5s, 30m or 1h30m",
        ),
        (
            redis(json!({"ttl": 5})),
            "spec.sessionStorage.ttl",
            "expected string",
        ),
        (
            redis(json!({"ttl": "0s"})),
            "spec.sessionStorage.ttl",
            "must be longer than 0s",
        ),
        (
            redis(json!({"ttl": "25h"})),
            "spec.sessionStorage.ttl",
            "must not be longer than `maxLifetime`",
        ),
        (
            redis(json!({"maxLifetime": "9000h"})),
            "spec.sessionStorage.maxLifetime",
            "must be at most 366 days",
        ),
        (
            redis(json!({"commandTimeout": "0s"})),
            "spec.sessionStorage.commandTimeout",
            "must be longer than 0s",
        ),
        (
            redis(json!({"passwordRef": {"name": "?x=", "key": "password"}})),
            "spec.sessionStorage.passwordRef.name",
            "must be the name of an object",
        ),
        (
            redis(json!({"passwordRef": {"name": "redis", "key": "../x"}})),
            "spec.sessionStorage.passwordRef.key",
            "must be the key of a Secret",
        ),
        (
            redis(json!({"passwordFile": "/etc/shadow"})),
            "spec.sessionStorage.passwordFile",
            "field not declared in schema",
        ),
        (
            storage(json!({"provider": "memory", "tls": {}})),
            "spec.sessionStorage.tls",
            "has no effect with `provider: memory`",
        ),
        (
            redis(json!({"tls": {"serverName": "https://redis"}})),
            "spec.sessionStorage.tls.serverName",
            "expected a DNS name, for example redis.tools.svc",
        ),
        (
            redis(json!({"tls": {"insecureSkipVerify": true, "caBundleRef": {"secretKeyRef": key()}}})),
            "spec.sessionStorage.tls.insecureSkipVerify",
            "accepts every certificate, so trusted authorities and `serverName` have no effect",
        ),
        (
            redis(json!({"tls": {"caBundleRef": {}}})),
            "spec.sessionStorage.tls.caBundleRef",
            "needs exactly one of `configMapKeyRef` and `secretKeyRef`",
        ),
        (
            redis(json!({"tls": {"caFile": "/etc/ca.crt"}})),
            "spec.sessionStorage.tls.caFile",
            "field not declared in schema",
        ),
        // Authentication
        (
            oidc(json!({"caBundleRef": {"secretKeyRef": key(), "configMapKeyRef": key()}})),
            "spec.incomingAuth.oidc.caBundleRef",
            "needs exactly one of `configMapKeyRef` and `secretKeyRef`",
        ),
        (
            oidc(json!({"caBundlePath": "/etc/ca.crt"})),
            "spec.incomingAuth.oidc.caBundlePath",
            "field not declared in schema",
        ),
        (
            json!({"incomingAuth": {"type": "saml"}}),
            "spec.incomingAuth.type",
            "supported values",
        ),
        (
            json!({"incomingAuth": {"type": "oidc"}}),
            "spec.incomingAuth.oidc",
            "needs the issuer and the audience",
        ),
        (
            json!({"incomingAuth": {"oidc": {"issuer": "https://i", "audience": ["https://a"]}}}),
            "spec.incomingAuth.oidc",
            "has no effect with `type: anonymous`",
        ),
        (
            oidc(json!({"issuer": "id.example.com"})),
            "spec.incomingAuth.oidc.issuer",
            "expected an http or https URL",
        ),
        (
            oidc(json!({"issuer": "http://id.example.com"})),
            "spec.incomingAuth.oidc.issuer",
            "`insecureAllowHttp: true` accepts http",
        ),
        (
            oidc(json!({"issuer": "https://i?x=y"})),
            "spec.incomingAuth.oidc.issuer",
            "an issuer has no query",
        ),
        (
            oidc(json!({"jwksUrl": "i/keys"})),
            "spec.incomingAuth.oidc.jwksUrl",
            "expected an http or https URL",
        ),
        (
            oidc(json!({"jwksUrl": "http://i/keys"})),
            "spec.incomingAuth.oidc.jwksUrl",
            "expected https",
        ),
        (
            oidc(json!({"audience": []})),
            "spec.incomingAuth.oidc.audience",
            "name the audience that tokens must have",
        ),
        (
            oidc(json!({"audience": "https://a"})),
            "spec.incomingAuth.oidc.audience",
            "expected list",
        ),
        (
            oidc(json!({"audience": ["tools"]})),
            "spec.incomingAuth.oidc.resource",
            "the first audience is not a URL",
        ),
        (
            oidc(json!({"resource": "https://a/mcp?x"})),
            "spec.incomingAuth.oidc.resource",
            "without query or fragment",
        ),
        (
            oidc(json!({"scopes": ["a b"]})),
            "spec.incomingAuth.oidc.scopes",
            "a scope is printable ASCII",
        ),
        (
            oidc(json!({"algorithms": ["HS256"]})),
            "spec.incomingAuth.oidc.algorithms[0]",
            "supported values",
        ),
        (
            oidc(json!({"algorithms": []})),
            "spec.incomingAuth.oidc.algorithms",
            "name at least one signing algorithm",
        ),
        (
            oidc(json!({"clockLeeway": "6m"})),
            "spec.incomingAuth.oidc.clockLeeway",
            "the maximum is 5m",
        ),
        (
            oidc(json!({"keyRefresh": "10ms"})),
            "spec.incomingAuth.oidc.keyRefresh",
            "the minimum is 1s",
        ),
        // Aggregation
        (
            json!({"aggregation": {"strategy": "random"}}),
            "spec.aggregation.strategy",
            "supported values",
        ),
        (
            json!({"aggregation": {"strategy": "none", "prefixFormat": "x_"}}),
            "spec.aggregation.prefixFormat",
            "set `strategy: prefix` or remove it",
        ),
        (
            json!({"aggregation": {"prefixFormat": "{backend}:"}}),
            "spec.aggregation.prefixFormat",
            "A-Z a-z 0-9 _ . / -",
        ),
        (
            json!({"aggregation": {"strategy": "priority"}}),
            "spec.aggregation.priority",
            "needs the backends' names in order of priority",
        ),
        (
            json!({"aggregation": {"priority": ["a"]}}),
            "spec.aggregation.priority",
            "set `strategy: priority` or remove it",
        ),
        (
            json!({"aggregation": {"strategy": "priority", "priority": ["A B"]}}),
            "spec.aggregation.priority",
            "expected the name of a backend",
        ),
        (
            json!({"aggregation": {"strategy": "priority", "priority": ["a", "a"]}}),
            "spec.aggregation.priority",
            "list each backend once",
        ),
        (
            json!({"aggregation": {"refresh": "10ms"}}),
            "spec.aggregation.refresh",
            "the minimum is 1s",
        ),
        (
            json!({"aggregation": {"pageSize": 0}}),
            "spec.aggregation.pageSize",
            "greater than or equal to 1",
        ),
        (
            json!({"aggregation": {"capabilities": ["magic"]}}),
            "spec.aggregation.capabilities[0]",
            "supported values",
        ),
        // The rest of the hot part
        (
            json!({"serverInfo": {"name": ""}}),
            "spec.serverInfo.name",
            "remove it to use the default",
        ),
        (
            json!({"allowedHosts": ["a", "http://b"]}),
            "spec.allowedHosts",
            "expected a host name or address",
        ),
        (
            json!({"allowedHosts": ["[:::]:80"]}),
            "spec.allowedHosts",
            "expected a host name or address",
        ),
        (
            json!({"allowedOrigins": ["*"]}),
            "spec.allowedOrigins",
            "there is no wildcard",
        ),
        (
            json!({"limits": {"requestBytes": 5}}),
            "spec.limits.requestBytes",
            "greater than or equal to 1024",
        ),
        (
            json!({"limits": {"requestBytes": 2048, "requestBytesInFlight": 2047}}),
            "spec.limits.requestBytesInFlight",
            "must be at least `requestBytes`",
        ),
        (
            json!({"limits": {"bufferedBytes": 1_048_575}}),
            "spec.limits.bufferedBytes",
            "must be at least 1048576 and `requestBytes`",
        ),
        (
            json!({"limits": {"sessionsPerPrincipal": 0}}),
            "spec.limits.sessionsPerPrincipal",
            "greater than or equal to 1",
        ),
        (
            json!({"backends": []}),
            "spec.backends",
            "field not declared in schema",
        ),
        // Operation
        (
            json!({"replicas": -1}),
            "spec.replicas",
            "greater than or equal to 0",
        ),
        (
            json!({"sessionAffinity": "Cookie"}),
            "spec.sessionAffinity",
            "supported values",
        ),
        (
            json!({"image": "a b"}),
            "spec.image",
            "image must be an image reference",
        ),
        (
            json!({"operational": {"logLevel": "loud"}}),
            "spec.operational.logLevel",
            "supported values",
        ),
        (
            json!({"operational": {"accessLog": {"sample": 2}}}),
            "spec.operational.accessLog.sample",
            "less than or equal to 1",
        ),
        (
            json!({"operational": {"drainDelay": "5"}}),
            "spec.operational.drainDelay",
            "expected a duration with units",
        ),
        (
            json!({"operational": {"idleTimeout": "0s"}}),
            "spec.operational.idleTimeout",
            "allowed are 1s to 24h",
        ),
        (
            json!({"operational": {"timeouts": {"call": "25h"}}}),
            "spec.operational.timeouts.call",
            "allowed are 1ms to 24h",
        ),
        // Pods and the objects around them
        (
            json!({"imagePullSecrets": [{"name": "A"}]}),
            "spec.imagePullSecrets[0].name",
            "must be the name of an object",
        ),
        (
            json!({"resources": {"limits": {"memory": "lots"}}}),
            "spec.resources.limits.memory",
            "should match",
        ),
        (
            json!({"resources": {"requests": {"cpu": "-1"}}}),
            "spec.resources.requests.cpu",
            "should match",
        ),
        (
            json!({"podTemplate": {"spec": {"nodeSelector": ["ssd"]}}}),
            "spec.podTemplate.spec.nodeSelector",
            "expected map",
        ),
        (
            json!({"podTemplate": {"spec": {"containers": {"name": "gateway"}}}}),
            "spec.podTemplate.spec.containers",
            "expected list",
        ),
        (
            json!({"podDisruptionBudget": {"maxUnavailable": "many"}}),
            "spec.podDisruptionBudget.maxUnavailable",
            "should match",
        ),
        (
            json!({"podDisruptionBudget": {"minAvailable": -1}}),
            "spec.podDisruptionBudget.minAvailable",
            "greater than or equal to 0",
        ),
        (
            json!({"serviceAccountName": "a/b"}),
            "spec.serviceAccountName",
            "must be the name of an object",
        ),
        (
            json!({"service": {"type": "ExternalName"}}),
            "spec.service.type",
            "supported values",
        ),
        (
            json!({"service": {"loadBalancerClass": "a/b"}}),
            "spec.service.loadBalancerClass",
            "has no effect without `type: LoadBalancer`",
        ),
        (
            json!({"service": {"labels": {"app.kubernetes.io/name": "x"}}}),
            "spec.service.labels",
            "the operator sets the labels",
        ),
        (
            json!({"podDisruptionBudget": {"maxUnavailable": 1, "minAvailable": 1}}),
            "spec.podDisruptionBudget",
            "set only one of",
        ),
        (
            json!({"autoscaling": {"minReplicas": 1}}),
            "spec.autoscaling.maxReplicas",
            "Required value",
        ),
        (
            json!({"autoscaling": {"minReplicas": 3, "maxReplicas": 2}}),
            "spec.autoscaling.minReplicas",
            "must not be greater than `maxReplicas`",
        ),
        (
            json!({"autoscaling": {"maxReplicas": 2}, "replicas": 2}),
            "spec.replicas",
            "has no effect with `autoscaling`",
        ),
        (
            json!({"networkPolicy": {"client": []}}),
            "spec.networkPolicy.client",
            "field not declared in schema",
        ),
        (
            json!({"autoscaling": {"maxReplicas": 2, "targetRequestsPerPod": 0}}),
            "spec.autoscaling.targetRequestsPerPod",
            "greater than or equal to 1",
        ),
        // How the endpoint is reached
        (json!({"tls": {}}), "spec.tls.certificateRef", "Required value"),
        (
            json!({"tls": {"certificateRef": {"name": "?x="}}}),
            "spec.tls.certificateRef.name",
            "must be the name of an object",
        ),
        (
            route(json!({"parentRefs": []})),
            "spec.httpRoute.parentRefs",
            "should have at least 1 items",
        ),
        (
            route(json!({"parentRefs": [{"namespace": "gateways"}]})),
            "spec.httpRoute.parentRefs[0].name",
            "Required value",
        ),
        (
            route(json!({"parentRefs": [{"name": "public", "sectionName": "A_b"}]})),
            "spec.httpRoute.parentRefs[0].sectionName",
            "must be the name of a listener",
        ),
        (
            route(json!({"parentRefs": [{"name": "public", "namespace": "a.b"}]})),
            "spec.httpRoute.parentRefs[0].namespace",
            "must be the name of a namespace",
        ),
        (
            route(json!({"timeouts": {"request": "1m", "backendRequest": "90s"}})),
            "spec.httpRoute.timeouts.backendRequest",
            "must not be longer than `request`",
        ),
        (
            route(json!({"hostnames": []})),
            "spec.httpRoute.hostnames",
            "should have at least 1 items",
        ),
        (
            route(json!({"hostnames": ["*.example.com"]})),
            "spec.httpRoute.hostnames",
            "no port and no wildcard",
        ),
        (
            route(json!({"path": "/team-a/mcp/"})),
            "spec.httpRoute.path",
            "no '/' at its end, for example /team-a/mcp",
        ),
        (
            route(json!({"timeouts": {"request": "soon"}})),
            "spec.httpRoute.timeouts.request",
            "expected a duration with units",
        ),
        (
            route(json!({"labels": {"vmcp.dev/x": "y"}})),
            "spec.httpRoute.labels",
            "the operator sets the labels",
        ),
        (
            json!({"serviceMonitor": {"interval": 30}}),
            "spec.serviceMonitor.interval",
            "expected string",
        ),
        (
            json!({"serviceMonitor": {"labels": {"app.kubernetes.io/name": "x"}}}),
            "spec.serviceMonitor.labels",
            "the operator sets the labels",
        ),
    ];
    let groups = vec![
        (
            json!({"selector": {"matchLabel": {}}}),
            "spec.selector.matchLabel",
            "field not declared in schema",
        ),
        (
            json!({"selector": {"matchExpressions": [{"key": "team", "operator": "Like", "values": ["a"]}]}}),
            "spec.selector.matchExpressions[0].operator",
            "supported values",
        ),
        (
            json!({"selector": {"matchExpressions": [{"key": "team", "operator": "In"}]}}),
            "spec.selector.matchExpressions[0].values",
            "need at least one value",
        ),
        (
            json!({"selector": {"matchExpressions": [{"key": "a b", "operator": "Exists"}]}}),
            "spec.selector.matchExpressions[0].key",
            "must be the key of a label",
        ),
    ];
    [of_kind(SERVER, servers), of_kind(GROUP, groups)].concat()
}
