//! Checks that the fields of the session storage are valid and do not contradict each other.

use std::time::Duration;

use super::super::{REDIS_PASSWORD_ENV, SessionStorage, SessionStorageProvider};
use super::{FieldError, host_and_port, words};

/// Upper bound of `maxLifetime`. A session id contains its expiry, and a mistake in the configuration must not make sessions immortal.
const MAX_ALLOWED_LIFETIME: Duration = Duration::from_secs(366 * 24 * 60 * 60);

impl SessionStorage {
    /// Checks the rules that the types do not express. `has_password` is whether the environment variable with the password is set.
    ///
    /// # Errors
    /// The name of the first invalid field, and why it is invalid.
    pub fn check(&self, has_password: bool) -> Result<(), FieldError> {
        self.check_lifetimes()?;
        match self.provider {
            SessionStorageProvider::Memory => self.check_memory(),
            SessionStorageProvider::Redis => {
                self.check_servers()?;
                self.check_user(has_password)?;
                self.check_tls()?;
                self.check_timeouts()
            }
        }
    }

    fn check_lifetimes(&self) -> Result<(), FieldError> {
        let (ttl, max) = (self.ttl.get(), self.max_lifetime.get());
        let found = |found| format!("found {found}; ");
        if ttl.is_zero() {
            return Err(("ttl".into(), found(self.ttl) + words::LONGER_THAN_ZERO));
        }
        if max > MAX_ALLOWED_LIFETIME {
            return Err((
                "maxLifetime".into(),
                found(self.max_lifetime) + words::MAX_LIFETIME_EXPECTED,
            ));
        }
        if ttl > max {
            let message = format!(
                "{}{}, which is {}",
                found(self.ttl),
                words::TTL_TOO_LONG,
                self.max_lifetime
            );
            return Err(("ttl".into(), message));
        }
        Ok(())
    }

    fn check_memory(&self) -> Result<(), FieldError> {
        let default = Self::default();
        let set = [
            ("address", self.address.is_some()),
            ("sentinel", self.sentinel.is_some()),
            ("cluster", self.cluster.is_some()),
            ("username", self.username.is_some()),
            ("passwordFile", self.password_file.is_some()),
            ("tls", self.tls.is_some()),
            ("db", self.db != default.db),
            ("keyPrefix", self.key_prefix != default.key_prefix),
            ("maxStaleness", self.max_staleness != default.max_staleness),
            ("onStoreOutage", self.on_store_outage != default.on_store_outage),
            ("outageGrace", self.outage_grace != default.outage_grace),
            ("connectTimeout", self.connect_timeout != default.connect_timeout),
            ("commandTimeout", self.command_timeout != default.command_timeout),
        ];
        match set.into_iter().find(|(_, is_set)| *is_set) {
            None => Ok(()),
            Some((field, _)) => Err((field.into(), words::WITHOUT_EFFECT_IN_MEMORY.to_owned())),
        }
    }

    fn check_servers(&self) -> Result<(), FieldError> {
        let each = |field: &'static str, addresses: &[String]| {
            if addresses.is_empty() {
                return Err((field.into(), words::NO_ADDRESS.to_owned()));
            }
            for (index, address) in addresses.iter().enumerate() {
                host_and_port(address).map_err(|message| (format!("{field}[{index}]").into(), message))?;
            }
            Ok(())
        };
        match (&self.address, &self.sentinel, &self.cluster) {
            (Some(address), None, None) => {
                host_and_port(address).map_err(|message| ("address".into(), message))?;
            }
            (None, Some(sentinel), None) => {
                if sentinel.master_name.is_empty() {
                    return Err((
                        "sentinel.masterName".into(),
                        words::MASTER_NAME_MISSING.to_owned(),
                    ));
                }
                each("sentinel.addresses", &sentinel.addresses)?;
            }
            (None, None, Some(cluster)) => {
                each("cluster.addresses", &cluster.addresses)?;
                if self.db != 0 {
                    let message = format!("found {}; {}", self.db, words::CLUSTER_DATABASE);
                    return Err(("db".into(), message));
                }
            }
            (None, None, None) => {
                return Err(("address".into(), words::NO_REDIS_SERVER.to_owned()));
            }
            (address, _, cluster) => {
                let field = if address.is_some() { "address" } else { "sentinel" };
                let other = if cluster.is_some() { "cluster" } else { "sentinel" };
                let message = format!(
                    "cannot be combined with `{other}`; {}",
                    words::SEVERAL_REDIS_SERVERS
                );
                return Err((field.into(), message));
            }
        }
        if self.key_prefix.contains(['{', '}']) {
            let message = format!("found {:?}; {}", self.key_prefix, words::KEY_PREFIX_EXPECTED);
            return Err(("keyPrefix".into(), message));
        }
        Ok(())
    }

    fn check_user(&self, has_password: bool) -> Result<(), FieldError> {
        if has_password && self.password_file.is_some() {
            let message = format!(
                "the environment variable {REDIS_PASSWORD_ENV} also contains a password; keep one of them"
            );
            return Err(("passwordFile".into(), message));
        }
        if self.username.is_some() && !has_password && self.password_file.is_none() {
            let message = format!(
                "a user needs a password; set the environment variable {REDIS_PASSWORD_ENV} or passwordFile"
            );
            return Err(("username".into(), message));
        }
        Ok(())
    }

    fn check_tls(&self) -> Result<(), FieldError> {
        let Some(tls) = &self.tls else { return Ok(()) };
        match (&tls.cert_file, &tls.key_file) {
            (Some(_), None) => {
                return Err(("tls.certFile".into(), "requires keyFile".to_owned()));
            }
            (None, Some(_)) => {
                return Err(("tls.keyFile".into(), "requires certFile".to_owned()));
            }
            (Some(_), Some(_)) | (None, None) => {}
        }
        if tls.insecure_skip_verify && (tls.ca_file.is_some() || tls.server_name.is_some()) {
            let message = words::SKIP_VERIFY_WITH_TRUST.to_owned();
            return Err(("tls.insecureSkipVerify".into(), message));
        }
        if let Some(name) = tls
            .server_name
            .as_deref()
            .filter(|name| name.is_empty() || name.contains([':', '/', ' ']))
        {
            let message = format!("found {name:?}; {}", words::SERVER_NAME_EXPECTED);
            return Err(("tls.serverName".into(), message));
        }
        Ok(())
    }

    fn check_timeouts(&self) -> Result<(), FieldError> {
        let timeouts = [
            ("connectTimeout", self.connect_timeout),
            ("commandTimeout", self.command_timeout),
        ];
        match timeouts.into_iter().find(|(_, timeout)| timeout.get().is_zero()) {
            Some((field, _)) => Err((field.into(), format!("found 0s; {}", words::LONGER_THAN_ZERO))),
            None => Ok(()),
        }
    }
}
