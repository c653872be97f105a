//! The examples for Keycloak and Entra accept tokens of the shape that these issuers make, and refuse their other tokens.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde::Deserialize as _;
use serde_json::{Value, json};
use vmcp_crds::v1alpha1::VirtualMCPServer;
use vmcp_e2e::gateway::{Gateway, Recipe};
use vmcp_e2e::http_client::{self, Answer};
use vmcp_e2e::issuer::{self, Issuer};
use vmcp_e2e::test_server::TestServer;
use vmcp_e2e::wait;

/// Time for the gateway to fetch the catalog of its backend.
const CATALOG_TIMEOUT: Duration = Duration::from_secs(20);

/// A gateway with the authentication of an example, and an issuer that has the path of the real one.
struct Example {
    issuer: Issuer,
    gateway: Gateway,
    /// `incomingAuth.oidc` of the example, before the issuer was replaced.
    oidc: Value,
    _test_server: TestServer,
}

impl Example {
    fn start(folder: &str) -> anyhow::Result<Self> {
        let file = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../examples")
            .join(folder)
            .join("vmcp.yaml");
        let text = std::fs::read_to_string(&file)?;
        let objects = serde_yaml::Deserializer::from_str(&text)
            .map(Value::deserialize)
            .collect::<Result<Vec<_>, _>>()?;
        let object = |kind: &str| {
            objects
                .iter()
                .find(|object| object["kind"] == kind)
                .cloned()
                .context(kind.to_owned())
        };
        let mut server = object("VirtualMCPServer")?;
        let oidc = server["spec"]["incomingAuth"]["oidc"].clone();
        let url = oidc["issuer"].as_str().context("the example has no issuer")?;
        let path = url
            .trim_start_matches("https://")
            .find('/')
            .map_or("", |at| &url["https://".len() + at..]);
        let issuer = Issuer::start_at(path)?;
        server["spec"]["incomingAuth"]["oidc"]["issuer"] = json!(issuer.url);
        server["spec"]["incomingAuth"]["oidc"]["insecureAllowHttp"] = json!(true);
        let server: VirtualMCPServer = serde_json::from_value(server)?;

        let test_server = TestServer::start(&[])?;
        let entry = object("MCPServerEntry")?;
        let name = entry["metadata"]["name"]
            .as_str()
            .context("the entry has no name")?;
        let mut recipe = Recipe::new(&[(name, &test_server.url)])?;
        recipe.config.incoming_auth = server.spec.incoming_auth.to_config();
        let gateway = recipe.start()?;
        Ok(Self {
            issuer,
            gateway,
            oidc,
            _test_server: test_server,
        })
    }

    /// The claims that both issuers put into their tokens.
    fn claims(&self, own: Value) -> Value {
        let now = issuer::now();
        let mut claims = json!({"iss": self.issuer.url, "iat": now, "nbf": now, "exp": now + 300});
        if let (Value::Object(claims), Value::Object(own)) = (&mut claims, own) {
            claims.extend(own);
        }
        claims
    }

    fn post(&self, claims: &Value, session: Option<&str>, message: &Value) -> anyhow::Result<Answer> {
        // Both issuers sign with RS256, and say JWT and not at+jwt.
        let header = json!({"alg": "RS256", "typ": "JWT", "kid": "first"});
        let authorization = format!("Bearer {}", self.issuer.key()?.sign(&header, claims)?);
        let mut headers = vec![("authorization", authorization.as_str())];
        headers.extend(session.map(|id| ("mcp-session-id", id)));
        http_client::post(self.gateway.mcp, &headers, message)
    }

    /// A client with a token of these claims opens a session and lists the tools of the example's server.
    fn accepts(&self, claims: &Value) -> anyhow::Result<()> {
        let opened = self.post(claims, None, &initialize())?;
        let session = opened
            .header("mcp-session-id")
            .with_context(|| format!("{claims}: {opened:?}"))?;
        wait::until("the tools are listed", CATALOG_TIMEOUT, || {
            let list = json!({"jsonrpc": "2.0", "id": 2, "method": "tools/list"});
            let tools = self.post(claims, Some(session), &list)?;
            ensure!(tools.text().contains("\"time_echo\""), "{tools:?}");
            Ok(())
        })
    }

    /// A client with a token of these claims gets 401 with this reason.
    fn refuses(&self, claims: &Value, reason: &str) -> anyhow::Result<()> {
        let refused = self.post(claims, None, &initialize())?;
        let challenge = refused.header("www-authenticate").unwrap_or_default();
        ensure!(
            refused.status == 401 && challenge.contains(reason),
            "{claims}: {refused:?}"
        );
        Ok(())
    }

    /// A client without a token learns the public URL, and the scopes that it should request.
    fn challenges_with_scopes(&self) -> anyhow::Result<()> {
        let challenge = http_client::initialize(self.gateway.mcp)?;
        let header = challenge.header("www-authenticate").unwrap_or_default();
        let scope = format!(
            "scope=\"{}\"",
            self.oidc["scopes"][0].as_str().unwrap_or_default()
        );
        let metadata = "https://tools.example.com/.well-known/oauth-protected-resource/mcp";
        ensure!(
            challenge.status == 401 && header.contains(&scope) && header.contains(metadata),
            "{scope}, {metadata}: {challenge:?}"
        );
        Ok(())
    }
}

fn initialize() -> Value {
    let params = json!({
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "http-client", "version": "1"},
    });
    json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params})
}

// An access token of Keycloak: with the mapper of the example's README, `aud` has two values; without it, the endpoint is not among them.
#[test]
fn keycloak_example_accepts_keycloak_token() -> anyhow::Result<()> {
    let example = Example::start("oidc-keycloak")?;
    example.challenges_with_scopes()?;
    let claims = example.claims(json!({
        "jti": "onrtac:8f6c2a54-45f0-4d0f-9f0c-0a3b1d9c3f11", "typ": "Bearer", "azp": "claude-code",
        "aud": ["https://tools.example.com/mcp", "account"],
        "sub": "7b0c6ab0-6a55-4d4e-8d5e-0d1a7f0f5f6e", "sid": "1b1e0a3e-7ad4-4b8a-a6a4-0a8f7f3b6d52",
        "acr": "1", "allowed-origins": ["http://localhost:6274"],
        "realm_access": {"roles": ["default-roles-tools", "offline_access"]},
        "resource_access": {"account": {"roles": ["view-profile"]}},
        "scope": "openid mcp profile email", "email_verified": true, "preferred_username": "alice",
    }));
    example.accepts(&claims)?;

    let mut without_mapper = claims.clone();
    without_mapper["aud"] = json!("account");
    example.refuses(&without_mapper, "The token is for another audience")?;
    let mut other_realm = claims;
    other_realm["iss"] = json!(example.issuer.url.replace("/realms/tools", "/realms/master"));
    example.refuses(&other_realm, "The token is from another issuer")
}

// An access token of Entra, version 2: `aud` is the application id. Tokens of version 1 and for Microsoft Graph are refused.
#[test]
fn entra_example_accepts_version_2_token() -> anyhow::Result<()> {
    let example = Example::start("oidc-entra")?;
    example.challenges_with_scopes()?;
    let (tenant, application) = (
        "11111111-1111-1111-1111-111111111111",
        "22222222-2222-2222-2222-222222222222",
    );
    let claims = example.claims(json!({
        "aud": application, "ver": "2.0", "tid": tenant, "azp": "33333333-3333-3333-3333-333333333333", "azpacr": "0",
        "aio": "AWQAm/8ZAAAA", "name": "Alice", "oid": "44444444-4444-4444-4444-444444444444",
        "preferred_username": "alice@example.com", "rh": "1.AXoA.", "scp": "mcp.access",
        "sid": "0046a5a5-0b2a-4b5e-8c5a-4f2d0c4f7e1d", "sub": "hKfC1nW0m3uZ2vJ4Q8s6T5y7U9o0P1a2", "uti": "x2Y4a6C8eEGg",
    }));
    example.accepts(&claims)?;

    let mut version_1 = claims.clone();
    version_1["ver"] = json!("1.0");
    version_1["iss"] = json!(format!("https://sts.windows.net/{tenant}/"));
    version_1["aud"] = json!(format!("api://{application}"));
    example.refuses(&version_1, "The token is from another issuer")?;
    let mut for_graph = claims;
    for_graph["aud"] = json!("00000003-0000-0000-c000-000000000000");
    example.refuses(&for_graph, "The token is for another audience")
}
