//! The gateway runs with every example configuration, as the example describes.

use std::path::Path;
use std::process::Command;

use vmcp_crds::config::{GatewayConfig, SessionStorageProvider};
use vmcp_crds::v1alpha1::MCPServer;
use vmcp_e2e::gateway::Recipe;
use vmcp_e2e::issuer::Issuer;
use vmcp_e2e::redis::Redis;
use vmcp_e2e::test_server::TestServer;
use vmcp_e2e::{binaries, http_client};
use vmcp_external::requires;

fn example() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/gateway.yaml")
}

#[test]
fn names_example_lists_documented_tools() -> anyhow::Result<()> {
    let test_server = TestServer::start(&[])?;
    let file = example().with_file_name("aggregation.yaml");
    let mut recipe = Recipe::new(&[])?;
    recipe.config.hot = GatewayConfig::load(&file)?.hot;
    for backend in &mut recipe.hot().backends {
        backend.url.clone_from(&test_server.url);
    }
    let gateway = recipe.start()?;
    let hello = http_client::initialize(gateway.mcp)?.message()?;
    assert_eq!(hello["result"]["serverInfo"]["title"], "All our tools");
    let session = http_client::Session::open(gateway.mcp)?;
    let tools = session.names(gateway.mcp, "tools/list")?;
    let lab: Vec<_> = tools.iter().filter(|name| name.starts_with("lab.")).collect();
    assert!(
        lab.iter().any(|name| *name == "lab.say") && lab.iter().any(|name| *name == "lab.test_simple_text"),
        "{lab:?}"
    );
    assert!(
        lab.iter()
            .all(|name| *name == "lab.say" || (name.starts_with("lab.test_") && !name.contains("error"))),
        "{lab:?}"
    );
    let said = session.call(gateway.mcp, "lab.say", &serde_json::json!({"message": "hi"}))?;
    assert_eq!(said.tool_text()?, "hi");
    assert!(tools.iter().any(|name| name == "time_counter"), "{tools:?}");
    Ok(())
}

/// The example configuration runs as it is but for its addresses.
#[requires(redis)]
#[test]
fn example_configuration_runs() -> anyhow::Result<()> {
    let (test_server, redis) = (TestServer::start(&[])?, Redis::start(Some("example"))?);
    let config = GatewayConfig::load(&example())?;
    assert_eq!(config.session_storage.provider, SessionStorageProvider::Redis);
    let mut recipe = Recipe::new(&[])?;
    let keys = recipe.config.session_keys.take();
    recipe.config = GatewayConfig {
        session_keys: keys,
        ..config
    };
    recipe.config.session_storage.address = Some(redis.address.to_string());
    for backend in &mut recipe.hot().backends {
        backend.url.clone_from(&test_server.url);
    }
    recipe.password = Some("example".to_owned());
    let gateway = recipe.start()?;
    let session = http_client::Session::open(gateway.mcp)?;
    for backend in ["time", "everything"] {
        let echo = session.call(
            gateway.mcp,
            &format!("{backend}_echo"),
            &serde_json::json!({"message": "hi"}),
        )?;
        assert_eq!(echo.tool_text()?, "hi");
    }
    let named: Vec<String> = redis.command(&["KEYS", "{vmcp:tools/everything}:s:*"])?;
    assert_eq!(named.len(), 1, "{named:?}");
    Ok(())
}

/// The authentication example serves clients with a token, and names the issuer to others.
#[test]
fn token_example_serves_tokens_and_challenges_others() -> anyhow::Result<()> {
    let (test_server, issuer) = (TestServer::start(&[])?, Issuer::start()?);
    let mut recipe = Recipe::new(&[])?;
    let config = GatewayConfig::load(&example().with_file_name("oidc.yaml"))?;
    recipe.config = GatewayConfig {
        session_keys: recipe.config.session_keys.take(),
        ..config
    };
    recipe.hot().backends[0].url.clone_from(&test_server.url);
    let oidc = recipe.config.incoming_auth.oidc.as_mut().unwrap();
    oidc.issuer.clone_from(&issuer.url);
    oidc.insecure_allow_http = true;
    let gateway = recipe.start()?;
    let nobody = http_client::initialize(gateway.mcp)?;
    assert_eq!(nobody.status, 401);
    let told = nobody.header("www-authenticate").unwrap_or_default();
    assert!(
        told.contains("https://tools.example.com/.well-known/oauth-protected-resource/mcp")
            && told.contains("scope=\"tools\""),
        "{told}"
    );
    let mut claims = issuer.claims("alice");
    claims["aud"] = "https://tools.example.com/mcp".into();
    let authorization = format!("Bearer {}", issuer.key()?.token(&claims)?);
    let list = serde_json::json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"});
    let known = http_client::post(gateway.mcp, &[("authorization", &authorization)], &list)?;
    assert_eq!(
        (known.status, known.error_code()),
        (400, -32600),
        "it has no session: {known:?}"
    );
    Ok(())
}

#[test]
fn readme_shows_the_example() -> anyhow::Result<()> {
    let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md"))?;
    let example = std::fs::read_to_string(example())?;
    let shown = example.trim_start_matches(|character| character != 'v').trim();
    let body = &example[example.find("version: v1").unwrap()..];
    assert!(
        readme.contains(body.trim()),
        "the README does not show examples/gateway.yaml as it is:\n{shown}"
    );
    Ok(())
}

/// The README's short examples of a program as a server are valid.
#[test]
fn readme_shows_valid_servers_that_are_programs() -> anyhow::Result<()> {
    let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md"))?;
    let section = readme.split("\n## Servers that are programs\n").nth(1);
    let section = section
        .and_then(|rest| rest.split("\n## ").next())
        .unwrap_or_default();
    let blocks = section
        .split("```yaml\n")
        .skip(1)
        .filter_map(|rest| rest.split("```").next());
    let blocks: Vec<&str> = blocks.collect();
    let [configuration, resource] = &*blocks else {
        anyhow::bail!("two blocks are expected, and not {blocks:?}");
    };
    assert!(configuration.lines().count() <= 5, "{configuration}");
    let configuration = GatewayConfig::parse(configuration, Path::new("README.md"))?;
    let hot = configuration.hot.unwrap_or_default();
    hot.check()
        .map_err(|(field, message)| anyhow::anyhow!("{field}: {message}"))?;
    assert_eq!(hot.backends[0].command, ["uvx", "mcp-server-time"]);
    assert!(resource.lines().count() <= 10, "{resource}");
    let resource: MCPServer = serde_yaml::from_str(resource)?;
    assert_eq!(
        resource.spec.pypi.map(|pypi| pypi.package).as_deref(),
        Some("mcp-server-time")
    );
    Ok(())
}

/// The README's client configuration has the endpoint of the example.
#[test]
fn readme_names_endpoint_of_example() -> anyhow::Result<()> {
    let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md"))?;
    let clients = std::fs::read_to_string(example().with_file_name("mcp.json"))?;
    assert!(
        readme.contains(clients.trim()),
        "the README does not show examples/mcp.json as it is"
    );
    let clients: serde_json::Value = serde_json::from_str(&clients)?;
    let url = format!("http://{}/mcp", GatewayConfig::load(&example())?.listeners.mcp);
    assert_eq!(clients["mcpServers"]["tools"]["url"], url);
    Ok(())
}

/// `validate` prints the effective configuration, and exits with 64 for an invalid file.
#[test]
fn validate_prints_meaning_and_exits_64_on_error() -> anyhow::Result<()> {
    let gateway = binaries::path("vmcp-gateway")?;
    let run = |file: &Path| {
        Command::new(&gateway)
            .arg("validate")
            .arg("--config")
            .arg(file)
            .output()
    };
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("gateway.yaml");
    std::fs::copy(example(), &file)?;
    // The example names a directory with keys, as the README makes one.
    std::fs::create_dir(directory.path().join("keys"))?;
    let key = Command::new(&gateway).arg("keygen").output()?.stdout;
    std::fs::write(directory.path().join("keys/current"), key)?;
    let good = run(&file)?;
    assert!(good.status.success(), "{}", String::from_utf8_lossy(&good.stderr));
    let printed = GatewayConfig::parse(&String::from_utf8(good.stdout)?, Path::new("printed"))?;
    assert_eq!(printed, GatewayConfig::load(&example())?);

    let bad = directory.path().join("bad.yaml");
    std::fs::write(
        &bad,
        "version: v1\nhot:\n  backends:\n    - name: time\n      uri: http://time\n",
    )?;
    let refused = run(&bad)?;
    assert_eq!(refused.status.code(), Some(64));
    let error = String::from_utf8(refused.stderr)?;
    for expected in ["bad.yaml:", "hot.backends[0]", "`uri`", "`url`"] {
        assert!(error.contains(expected), "{expected} is not in {error}");
    }
    Ok(())
}

/// The README's commands without Kubernetes start a gateway.
#[test]
fn readme_commands_start_gateway() -> anyhow::Result<()> {
    let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md"))?;
    let block = readme
        .split("```sh\n")
        .skip(1)
        .filter_map(|rest| rest.split("```").next());
    let block = block
        .into_iter()
        .find(|block| block.contains("keygen"))
        .unwrap_or_default();
    let (build, commands) = block.split_once('\n').unwrap_or_default();
    assert!(
        build.starts_with("cargo build --release -p vmcp-gateway"),
        "{block}"
    );

    // As in the README, but with the program of this test and on free ports.
    let directory = tempfile::tempdir()?;
    std::fs::create_dir(directory.path().join("examples"))?;
    let mut config = std::fs::read_to_string(example())?;
    let (mcp, admin) = (vmcp_e2e::ports::free()?, vmcp_e2e::ports::free()?);
    config = config
        .replace("127.0.0.1:4483", &mcp.to_string())
        .replace("127.0.0.1:9483", &admin.to_string());
    std::fs::write(directory.path().join("examples/gateway.yaml"), config)?;
    let program = binaries::path("vmcp-gateway")?;
    let commands = commands.replace("target/release/vmcp-gateway", &program.to_string_lossy());
    let mut shell = Command::new("sh");
    shell.args(["-euc", &commands]).current_dir(directory.path());
    let mut process = vmcp_external::process::Process::start("readme", &shell)?;
    let limit = std::time::Duration::from_secs(20);
    let answer = vmcp_e2e::wait::until("the gateway lives", limit, || {
        http_client::get(admin, "/livez", &[])
    });
    let answer = answer.map_err(|error| error.context(process.last_words()))?;
    assert_eq!(answer.status, 200);
    Ok(())
}
