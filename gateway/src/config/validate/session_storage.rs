//! Validates the settings of the session store.

use std::path::Path;

use secrecy::SecretString;
use vmcp_crds::config::{RedisTls as RawTls, SessionStorage as RawStorage, SessionStorageProvider, rules};

use super::{ConfigFault, directory};
use crate::config::{
    CertificatePair, RedisAddress, RedisPassword, RedisStorage, RedisTls, RedisTopology, SessionStorage,
};

pub(super) fn session_storage(
    raw: &RawStorage,
    password: Option<SecretString>,
    file: &Path,
) -> Result<SessionStorage, ConfigFault> {
    let at = |field: &str, message| ConfigFault::at(&format!("sessionStorage.{field}"), message);
    let checked = raw.check(password.is_some());
    checked.map_err(|(field, message)| at(&field, message))?;
    if raw.provider == SessionStorageProvider::Memory {
        return Ok(SessionStorage::Memory);
    }
    let directory = directory(file);
    let from_file = || Some(RedisPassword::File(directory.join(raw.password_file.as_ref()?)));
    Ok(SessionStorage::Redis(Box::new(RedisStorage {
        topology: topology(raw).map_err(|(field, message)| at(field, message))?,
        db: raw.db,
        key_prefix: raw.key_prefix.clone(),
        username: raw.username.clone(),
        password: password.map(RedisPassword::Fixed).or_else(from_file),
        tls: raw.tls.as_ref().map(|tls| encryption(tls, directory)),
        connect_timeout: raw.connect_timeout.get(),
        command_timeout: raw.command_timeout.get(),
        outage_grace: raw.outage_grace.get(),
    })))
}

fn topology(raw: &RawStorage) -> Result<RedisTopology, (&'static str, String)> {
    let addresses = |field: &'static str, addresses: &[String]| {
        let parsed = addresses
            .iter()
            .map(|text| address(text).map_err(|message| (field, message)));
        parsed.collect::<Result<Vec<_>, _>>()
    };
    if let Some(sentinel) = &raw.sentinel {
        return Ok(RedisTopology::Sentinel {
            master_name: sentinel.master_name.clone(),
            sentinels: addresses("sentinel.addresses", &sentinel.addresses)?,
        });
    }
    if let Some(cluster) = &raw.cluster {
        return Ok(RedisTopology::Cluster(addresses(
            "cluster.addresses",
            &cluster.addresses,
        )?));
    }
    let single = address(raw.address.as_deref().unwrap_or_default());
    Ok(RedisTopology::Single(
        single.map_err(|message| ("address", message))?,
    ))
}

fn address(text: &str) -> Result<RedisAddress, String> {
    rules::host_and_port(text).map(|(host, port)| RedisAddress { host, port })
}

fn encryption(raw: &RawTls, directory: &Path) -> RedisTls {
    let identity = raw.cert_file.as_ref().zip(raw.key_file.as_ref());
    RedisTls {
        ca_file: raw.ca_file.as_ref().map(|file| directory.join(file)),
        identity: identity.map(|(cert, key)| CertificatePair {
            cert_file: directory.join(cert),
            key_file: directory.join(key),
        }),
        server_name: raw.server_name.clone(),
        insecure_skip_verify: raw.insecure_skip_verify,
    }
}
