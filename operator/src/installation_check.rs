//! `vmcp-operator check`: whether the operator of this installation works.

use std::fmt::Debug;
use std::time::Duration;

use anyhow::{Context as _, bail};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{Api, ListParams};
use kube::{Client, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use tokio::time::Instant;
use vmcp_crds::v1alpha1::{MCPGroup, MCPServer, MCPServerEntry, VirtualMCPServer};

use crate::api_server::{ObjectApi, ObjectName};
use crate::args::Args;
use crate::kube_error::describe;
use crate::watch::Scope;

/// Interval between two reads of the Lease.
const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// Checks that the kinds are served, that the operator may list them, and that an operator holds the Lease and renews it. It has the
/// settings of the operator, and should run with its ServiceAccount. Prints one line for each fact. Within `timeout` an operator must become
/// active.
///
/// # Errors
/// If something is missing; the message says what to do.
pub async fn run(client: &Client, args: &Args, timeout: Duration) -> anyhow::Result<()> {
    for scope in args.scopes() {
        list::<VirtualMCPServer>(client, &scope).await?;
        list::<MCPGroup>(client, &scope).await?;
        list::<MCPServerEntry>(client, &scope).await?;
        list::<MCPServer>(client, &scope).await?;
        println!(
            "the kinds are served, and the operator may list them {}",
            place(&scope)
        );
    }
    if args.leader_election {
        let holder = active_operator(client, args, timeout).await?;
        println!("an operator is active: {holder}");
    }
    Ok(())
}

async fn list<K>(client: &Client, scope: &Scope) -> anyhow::Result<()>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
{
    #[expect(
        clippy::disallowed_methods,
        reason = "a scope's namespace is validated in this function"
    )]
    let api: Api<K> = match scope {
        Scope::Cluster => Api::all(client.clone()),
        Scope::Namespace(namespace) => {
            ObjectName::parse(namespace)?;
            Api::namespaced(client.clone(), namespace)
        }
    };
    let kind = K::kind(&());
    match api.list_metadata(&ListParams::default().limit(1)).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => {
            bail!("the API server does not know the kind {kind}: install the chart vmcp-crds")
        }
        Err(error) => bail!("cannot list {kind} {}: {}", place(scope), describe(&error)),
    }
}

fn place(scope: &Scope) -> String {
    match scope {
        Scope::Cluster => "in all namespaces".to_owned(),
        Scope::Namespace(namespace) => format!("in the namespace {namespace}"),
    }
}

/// The operator that holds the Lease. It must renew the Lease during the check, because the Lease of a dead operator still names it.
async fn active_operator(client: &Client, args: &Args, timeout: Duration) -> anyhow::Result<String> {
    let leases = ObjectApi::<Lease>::in_namespace(client, &args.namespace)?;
    let name = ObjectName::parse(&args.lease_name)?;
    let (end, mut first) = (Instant::now() + timeout, None);
    while Instant::now() < end {
        let lease = leases
            .get(&name)
            .await
            .context("cannot check which operator is active")?;
        let holder = lease.and_then(|lease| {
            let version = lease.resource_version()?;
            let holder = lease.spec?.holder_identity.filter(|holder| !holder.is_empty())?;
            Some((holder, version))
        });
        match (&first, holder) {
            (Some(first), Some(now)) if *first != now => return Ok(now.0),
            (None, found) => first = found,
            _ => {}
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    let lease = format!("the Lease {}/{}", args.namespace, args.lease_name);
    match first {
        Some((holder, _)) => {
            bail!("{holder} holds {lease} but does not renew it: look at the operator's log")
        }
        None => bail!("no operator holds {lease}: look at the operator's pods and their log"),
    }
}
