//! Resolves the references of a spec: the group's members, the Secrets and the ConfigMaps.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jiff::Timestamp;
use kube::ResourceExt as _;
use kube::runtime::reflector::ObjectRef;
use vmcp_crds::session_key::SessionKey;
use vmcp_crds::v1alpha1::{KeyedObject, MCPGroup, SecretFile, SecretKeyRef, VirtualMCPServer};

use crate::desired::{Backend, Member, SecretProblem};
use crate::error::Error;
use crate::policy::Policy;
use crate::secret_values::{ReadCache, ReferencedKeys, SecretReader, SecretValues};
use crate::session_keys::{self, KeyChange, SessionKeySecret, SessionKeySet};
use crate::value_facts::ValueDigest;
use crate::watch::ReflectorStores;

/// The members of the group of `server`, sorted by name; `None` if the group does not exist.
#[must_use]
pub fn backends(server: &VirtualMCPServer, stores: &ReflectorStores) -> Option<Vec<Backend>> {
    let namespace = server.namespace().unwrap_or_default();
    let group = &server.spec.group_ref.name;
    let group = stores.groups.get(&ObjectRef::new(group).within(&namespace))?;
    let timeouts = &server.spec.operational.timeouts;
    let (members, _) = members(&group, stores);
    let backends = members.iter().map(|member| member.to_backend(timeouts)).collect();
    Some(Backend::check_all(backends, &server.spec.hot.aggregation))
}

/// The members of `group`, sorted by name, and the names of the MCPServers that are not members, because an MCPServerEntry of the group has
/// the same name.
#[must_use]
pub fn members(group: &MCPGroup, stores: &ReflectorStores) -> (Vec<Member>, Vec<String>) {
    let namespace = &group.metadata.namespace;
    let entries = stores
        .entries
        .state_filter(|entry| entry.metadata.namespace == *namespace && group.has_member(entry));
    let servers = stores
        .mcp_servers
        .state_filter(|server| server.metadata.namespace == *namespace && group.has_member(server));
    let names: BTreeSet<String> = entries.iter().map(|entry| entry.name_any()).collect();
    let (shadowed, servers): (Vec<_>, Vec<_>) = servers
        .into_iter()
        .partition(|server| names.contains(&server.name_any()));
    let entries = entries.into_iter().map(Member::Entry);
    let mut members: Vec<Member> = entries.chain(servers.into_iter().map(Member::Server)).collect();
    members.sort_by_key(Member::name);
    let mut shadowed: Vec<String> = shadowed.iter().map(|server| server.name_any()).collect();
    shadowed.sort_unstable();
    (members, shadowed)
}

/// Result of resolving the Secrets and ConfigMaps that a virtual server needs.
#[derive(Debug)]
pub enum SecretResolution {
    /// Everything that the virtual server itself needs exists and is valid. Backends whose values are missing say so themselves.
    Resolved(Box<ResolvedSecrets>),
    /// A Secret or ConfigMap is missing, invalid, or not allowed.
    Unresolved {
        /// The reason of the condition, in CamelCase.
        reason: &'static str,
        /// The message of the condition.
        message: String,
        /// Whether a user has to act; otherwise the operator waits for the object.
        stalled: bool,
    },
}

/// The Secrets of a virtual server and its backends.
#[derive(Debug)]
pub struct ResolvedSecrets {
    /// The keys that sign session ids.
    pub keys: SessionKeySet,
    /// What has just been done to the keys.
    pub key_change: Option<KeyChange>,
    /// What a user should know although everything works.
    pub warnings: Vec<String>,
    /// A MAC of the Redis password, if the spec refers to one.
    pub password_mac: Option<ValueMac>,
    /// The files that the pods mount.
    pub files: Vec<SecretFile>,
    /// A MAC of all mounted values and the session keys. It differs whenever the kubelet should mount something else.
    pub mounts_mac: Option<String>,
}

/// A MAC of a value: it changes with the value and does not reveal it.
#[derive(Debug)]
pub struct ValueMac {
    by_current: String,
    by_previous: Option<String>,
}

impl ValueMac {
    fn new(keys: &SessionKeySet, label: &str, value: &ValueDigest) -> Self {
        let mac = |key: &SessionKey| BASE64_URL_SAFE_NO_PAD.encode(key.mac(label, &[value]));
        Self {
            by_current: mac(&keys.current),
            by_previous: keys.previous.as_ref().map(mac),
        }
    }

    /// The MAC to render: `live`, if it belongs to this value, so that a rotation of the session keys does not change it.
    #[must_use]
    pub fn or_live<'a>(&'a self, live: Option<&'a str>) -> &'a str {
        live.filter(|live| self.by_previous.as_deref() == Some(live))
            .unwrap_or(&self.by_current)
    }
}

/// Reads the Secrets and ConfigMaps that `server` and `backends` refer to, and creates or rotates the session keys. A backend whose values
/// cannot be used is marked. With `has_deployment`, created keys replace lost ones.
///
/// # Errors
/// When the API server rejects a request or does not answer.
pub async fn secrets(
    reader: &SecretReader<'_>,
    server: &VirtualMCPServer,
    backends: &mut [Backend],
    cache: &mut ReadCache,
    has_deployment: bool,
    now: Timestamp,
) -> Result<SecretResolution, Error> {
    let ensured = session_keys::ensure(reader.client, server, reader.policy, has_deployment, now).await?;
    let (keys, key_change, warning) = match ensured {
        SessionKeySecret::Ready {
            keys,
            change,
            warning,
        } => (keys, change, warning),
        SessionKeySecret::Unusable(message) => return Ok(unresolved("SessionKeysInvalid", message, true)),
        SessionKeySecret::NotAllowed(message) => return Ok(unresolved("SecretNotAllowed", message, false)),
    };
    let own_files = server.spec.secret_files();
    let references = referenced_keys(server, &own_files, backends);
    let values = reader.read(&references, cache).await?;
    let resolved = resolve(server, own_files, backends, &values, reader.policy, keys);
    Ok(match resolved {
        Ok(resolved) => SecretResolution::Resolved(Box::new(ResolvedSecrets {
            key_change,
            warnings: warning.into_iter().chain(resolved.warnings).collect(),
            ..resolved
        })),
        Err(problem) => unresolved(problem.reason, problem.message, false),
    })
}

fn unresolved(reason: &'static str, message: String, stalled: bool) -> SecretResolution {
    SecretResolution::Unresolved {
        reason,
        message,
        stalled,
    }
}

fn referenced_keys(
    server: &VirtualMCPServer,
    own_files: &[SecretFile],
    backends: &[Backend],
) -> ReferencedKeys {
    let password = server.spec.redis_password_ref();
    let password =
        password.map(|SecretKeyRef { name, key }| (KeyedObject::Secret(name.clone()), key.clone()));
    let certificate = server.spec.certificate_files();
    let files = own_files.iter().chain(&certificate).chain(valid_files(backends));
    let files = files.map(|file| (file.object.clone(), file.key.clone()));
    let mut references = ReferencedKeys::new();
    for (object, key) in files.chain(password) {
        references.entry(object).or_default().insert(key);
    }
    references
}

/// The files of the backends with a valid spec.
fn valid_files(backends: &[Backend]) -> impl Iterator<Item = &SecretFile> {
    let valid = backends.iter().filter(|backend| backend.problem.is_none());
    valid.flat_map(|backend| &backend.secret_files)
}

fn resolve(
    server: &VirtualMCPServer,
    own_files: Vec<SecretFile>,
    backends: &mut [Backend],
    values: &SecretValues,
    policy: &Policy,
    keys: SessionKeySet,
) -> Result<ResolvedSecrets, SecretProblem> {
    let mut warnings = Vec::new();
    let mut password_mac = None;
    if let Some(reference) = server.spec.redis_password_ref() {
        let (password, warning) = password(reference, values)?;
        password_mac = Some(ValueMac::new(&keys, "vmcp redis password", &password));
        warnings.extend(warning);
    }
    let certificate = server.spec.certificate_files();
    own_files
        .iter()
        .chain(&certificate)
        .try_for_each(|file| values.check(file))?;
    for backend in backends.iter_mut().filter(|backend| backend.problem.is_none()) {
        backend.secret_problem = backend
            .secret_files
            .iter()
            .find_map(|file| values.check(file).err());
    }
    let mut files: Vec<SecretFile> = own_files
        .into_iter()
        .chain(valid_files(backends).cloned())
        .collect();
    if policy.secret_label.is_some() {
        // A pod must not mount a Secret that the policy may turn out to refuse.
        files.retain(|file| {
            matches!(file.object, KeyedObject::ConfigMap(_)) || values.is_usable(&file.object)
        });
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    let mounted: Vec<&SecretFile> = files.iter().chain(&certificate).collect();
    let mounts_mac =
        (!mounted.is_empty() || keys.were_changed).then(|| mounts_mac(&keys.current, &mounted, values));
    Ok(ResolvedSecrets {
        keys,
        key_change: None,
        warnings,
        password_mac,
        files,
        mounts_mac,
    })
}

fn mounts_mac(key: &SessionKey, files: &[&SecretFile], values: &SecretValues) -> String {
    let mut parts: Vec<&[u8]> = Vec::new();
    for file in files {
        parts.push(file.path.as_bytes());
        match values.mounted(file) {
            Some(digest) => parts.extend([b"value".as_slice(), digest]),
            None => parts.push(b"missing"),
        }
    }
    BASE64_URL_SAFE_NO_PAD.encode(key.mac("vmcp mounted secrets", &parts))
}

/// The digest of the Redis password, and a warning if the value is not exactly the password.
fn password(
    reference: &SecretKeyRef,
    values: &SecretValues,
) -> Result<(ValueDigest, Option<String>), SecretProblem> {
    let SecretKeyRef { name, key } = reference;
    let field = "spec.sessionStorage.passwordRef";
    let facts = values.facts(&KeyedObject::Secret(name.clone()), key, field)?;
    let invalid = |problem: &str| SecretProblem {
        reason: "SecretValueInvalid",
        message: format!("{field}: the value of key {key} of Secret {name} {problem}"),
    };
    let text = facts.text.ok_or_else(|| invalid("is not valid UTF-8"))?;
    let password = text.password.ok_or_else(|| invalid("is empty"))?;
    let warning = text
        .has_line_break
        .then(|| invalid("ends with a line break, which is not part of the password and is ignored").message);
    Ok((password, warning))
}
