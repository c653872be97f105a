//! Conversations of SDK clients with the odd servers: directly, and through a gateway.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use vmcp_e2e::gateway::{Gateway, Recipe};
use vmcp_e2e::scripted_server::{Received, ScriptedServer, usual};

use crate::odd_answers::odd_servers;

/// The instructions for a client.
#[derive(Serialize)]
struct Conversation {
    name: &'static str,
    url: String,
    requests: Value,
    /// How long the connection and each request may take.
    seconds: u32,
}

/// The outcome.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub(crate) struct Played {
    pub(crate) name: String,
    /// Why there is no connection.
    pub(crate) connect: Option<Value>,
    pub(crate) outcomes: Vec<Outcome>,
}

/// What the SDK gives for a request.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Outcome {
    /// The result, as the SDK writes it.
    Result(Value),
    /// The code, if there is one, and the message.
    Error(Value),
}

/// How many odd servers are behind one gateway. A client gets the tools of all of them in each list.
const BEHIND_ONE_GATEWAY: usize = 32;

/// A gateway in front of some of the odd servers.
pub(crate) struct Fronted {
    names: Vec<&'static str>,
    /// Keeps the gateway's session key.
    _recipe: Recipe,
    pub(crate) gateway: Gateway,
}

/// All odd servers, each at a path of its own.
pub(crate) struct OddServers {
    server: ScriptedServer,
    names: Vec<&'static str>,
}

impl OddServers {
    pub(crate) fn start() -> anyhow::Result<Self> {
        let servers = odd_servers();
        let names: Vec<_> = servers.iter().map(|server| server.name).collect();
        let scripts: BTreeMap<_, _> = servers
            .into_iter()
            .map(|server| (server.name, server.script))
            .collect();
        ensure!(scripts.len() == names.len(), "two odd servers have one name");
        let server = ScriptedServer::start(move |request: &Received| {
            let name = request.path.split('/').nth(1).unwrap_or_default();
            let script = scripts.get(name)?;
            script(request).or_else(|| Some(usual(request)))
        })?;
        Ok(Self { server, names })
    }

    /// Every request so far.
    pub(crate) fn received(&self) -> Vec<Received> {
        self.server.received()
    }

    fn url(&self, name: &str) -> String {
        format!("{}/{name}", self.server.url.trim_end_matches("/mcp"))
    }

    /// Gateways in front of them, each server a backend of its own.
    pub(crate) fn gateways(&self) -> anyhow::Result<Vec<Fronted>> {
        let groups = self.names.chunks(BEHIND_ONE_GATEWAY);
        groups.map(|names| self.gateway(names)).collect()
    }

    fn gateway(&self, names: &[&'static str]) -> anyhow::Result<Fronted> {
        let urls: Vec<_> = names.iter().map(|name| (*name, self.url(name))).collect();
        let backends: Vec<_> = urls.iter().map(|(name, url)| (*name, url.as_str())).collect();
        let mut recipe = Recipe::new(&backends)?;
        for backend in &mut recipe.hot().backends {
            // The corpus causes more consecutive errors than the breaker allows.
            backend.breaker.failures = 0;
        }
        let gateway = recipe.start()?;
        Ok(Fronted {
            names: names.to_vec(),
            _recipe: recipe,
            gateway,
        })
    }

    /// The outcomes of the client that `command` starts, by server.
    pub(crate) fn play(&self, command: Command) -> anyhow::Result<BTreeMap<String, Played>> {
        let talk = |name: &&'static str| Conversation {
            name,
            url: self.url(name),
            requests: requests(""),
            seconds: seconds(name),
        };
        play(command, &self.names.iter().map(talk).collect::<Vec<_>>())
    }

    /// The outcomes through the gateways, without the prefixes of names.
    pub(crate) fn play_through(
        fronted: &[Fronted],
        command: Command,
    ) -> anyhow::Result<BTreeMap<String, Played>> {
        let mut conversations = Vec::new();
        for Fronted { names, gateway, .. } in fronted {
            conversations.extend(names.iter().map(|name| Conversation {
                name,
                url: format!("http://{}/mcp", gateway.mcp),
                requests: requests(&format!("{name}_")),
                seconds: seconds(name),
            }));
        }
        play(command, &conversations)
    }
}

/// Servers from which some SDK gets no answer at all, so that waiting for it would take long.
const SILENT: &[&str] = &[
    "call-gets-202",
    "cursor-empty",
    "envelope-with-method",
    "envelope-with-method-null",
    "error-of-id-null",
    "error-with-202",
    "event-in-a-batch",
    "events-cr",
    "events-end-without-answer",
    "events-in-one-batch",
    "events-of-other-type",
    "events-of-type-in-capitals",
    "events-with-mixed-ends",
    "events-without-last-blank-line",
    "events-without-last-line-end",
    "get-is-never-answered",
    "id-as-text",
    "id-missing-in-events",
    "id-null-in-events",
    "id-of-another",
    "id-of-another-in-events",
    "initialized-gets-open-events",
    "json-empty-batch",
    "results-with-202",
];

fn seconds(name: &str) -> u32 {
    if SILENT.contains(&name) { 5 } else { 20 }
}

fn requests(prefix: &str) -> Value {
    let call = json!({"name": format!("{prefix}echo"), "arguments": {"message": "hi"}});
    json!([
        {"method": "tools/list", "params": {}},
        {"method": "tools/call", "params": call},
        {"method": "tools/call", "params": call},
    ])
}

/// Reduces a list to the tools of this server, sorted and without the prefixes.
fn keep_own_tools(played: &mut Played) {
    let prefix = format!("{}_", played.name);
    for outcome in &mut played.outcomes {
        let Outcome::Result(result) = outcome else {
            continue;
        };
        let Some(tools) = result["tools"].as_array() else {
            continue;
        };
        let mut own: Vec<Value> = tools.clone();
        own.retain_mut(|tool| {
            let name = tool["name"].as_str().unwrap_or_default().to_owned();
            let is_own = name.starts_with(&prefix) || !name.contains('_');
            tool["name"] = json!(name.trim_start_matches(&prefix));
            is_own
        });
        own.sort_by_key(|tool| tool["name"].to_string());
        *result = json!({"tools": own});
    }
}

fn play(mut command: Command, conversations: &[Conversation]) -> anyhow::Result<BTreeMap<String, Played>> {
    let directory = tempfile::TempDir::new()?;
    let script = directory.path().join("conversations.json");
    std::fs::write(&script, serde_json::to_vec(conversations)?)?;
    let output = command.arg(&script).stderr(Stdio::inherit()).output()?;
    ensure!(output.status.success(), "{command:?}: {}", output.status);
    // What Rust cannot hold in a text.
    let lines = String::from_utf8(output.stdout)?.replace("\\ud83d", "(half a pair)");
    let mut played = BTreeMap::new();
    for line in lines.lines() {
        let mut one: Played = serde_json::from_str(line).with_context(|| line.to_owned())?;
        keep_own_tools(&mut one);
        played.insert(one.name.clone(), one);
    }
    ensure!(
        played.len() == conversations.len(),
        "{command:?} played {} of {}",
        played.len(),
        conversations.len()
    );
    Ok(played)
}
