//! Checks the files that the configuration names and that the gateway needs to start.
//!
//! The check is separate from the validation of the configuration, because the operator validates a configuration where no files are mounted.
//! `validate` and `serve` make the same checks, so that `serve` starts with any configuration that `validate` accepts. Files that may appear
//! later are not checked: values of headers, and files for the connection to Redis.

mod programs;

use std::path::Path;

use secrecy::SecretString;
use vmcp_crds::config::read;

use crate::config::{Config, IncomingAuth, InvalidConfig};
use crate::frontend::auth::authorities;
use crate::http::listener_tls::ListenerTls;
use crate::session::id::signing_keys::SigningKeys;

pub use programs::check_programs;

/// Reads and validates `file` as [`Config::load`] does, and checks the files that the gateway needs to start.
///
/// # Errors
/// As [`Config::load`] and [`check`].
pub fn load(file: &Path, redis_password: Option<SecretString>) -> Result<Config, InvalidConfig> {
    let config = Config::load(file, redis_password)?;
    check(&config, file).map(|()| config)
}

/// Checks the files that the gateway needs to start with `config`, which was read from `file`.
///
/// # Errors
/// Names the field whose file cannot be used, and the reason.
pub fn check(config: &Config, file: &Path) -> Result<(), InvalidConfig> {
    if let Some(directory) = &config.session_keys
        && let Err(error) = SigningKeys::load(directory)
    {
        let advice = "a relative path starts at the directory of this file; `vmcp-gateway keygen > current` creates a key";
        return reject(file, "sessionKeys.directory", error, advice);
    }
    if let Some(pair) = &config.mcp_tls
        && let Err(reason) = ListenerTls::new(pair.clone())
    {
        let advice = "expected a certificate and its private key in PEM; a relative path starts at the directory of this file";
        return reject(file, "listeners.tls", anyhow::Error::msg(reason), advice);
    }
    if let IncomingAuth::Oidc(oidc) = &config.incoming_auth
        && let Some(bundle) = &oidc.ca_bundle
        && let Err(reason) = authorities(bundle)
    {
        let advice =
            "expected a file with certificates in PEM; a relative path starts at the directory of this file";
        let error = anyhow::Error::msg(reason);
        return reject(file, "incomingAuth.oidc.caBundlePath", error, advice);
    }
    Ok(())
}

fn reject(
    file: &Path,
    path: &str,
    error: impl Into<anyhow::Error>,
    advice: &str,
) -> Result<(), InvalidConfig> {
    let message = format!("{:#}; {advice}", error.into());
    Err(InvalidConfig::invalid(file, &read(file)?, path, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The error of the check in a directory with `files`.
    fn check_error(text: &str, files: &[(&str, &str)]) -> Option<String> {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("gateway.yaml");
        std::fs::write(&file, text).unwrap();
        for (name, content) in files {
            let path = directory.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
        // The configuration itself is valid without the files.
        let config = Config::load(&file, None).unwrap();
        let error = check(&config, &file).err()?.to_string();
        Some(error.replace(&format!("{}/", directory.path().display()), ""))
    }

    #[test]
    fn unusable_file_is_reported_with_the_line_that_names_it() {
        let keys = "version: v1\nsessionKeys:\n  directory: keys\n";
        let oidc = "version: v1\nincomingAuth:\n  type: oidc\n  oidc:\n    issuer: https://i\n    audience: https://a\n    caBundlePath: ca.pem\n";
        let place = "gateway.yaml:3: at `sessionKeys.directory`: ";
        let ca = "gateway.yaml:7: at `incomingAuth.oidc.caBundlePath`: ";
        for (text, files, expected) in [
            (
                keys,
                vec![],
                format!("{place}cannot read the session key keys/current: No such file"),
            ),
            (
                keys,
                vec![("keys/current", "s3cret")],
                format!("{place}keys/current is no session key: not a session key: expected 32 bytes"),
            ),
            (
                oidc,
                vec![],
                format!("{ca}cannot read the certificate authorities in ca.pem: "),
            ),
            (
                oidc,
                vec![("ca.pem", "")],
                format!("{ca}there is no certificate authority in ca.pem; "),
            ),
        ] {
            let error = check_error(text, &files).unwrap_or_default();
            assert!(error.starts_with(&expected), "{expected}… but {error}");
            assert!(!error.contains("s3cret") && error.contains("; "), "{error}");
        }
        let key = vmcp_crds::session_key::SessionKey::generate().unwrap().to_text();
        assert_eq!(check_error(keys, &[("keys/current", &key)]), None);
        assert_eq!(check_error("version: v1\n", &[]), None);
    }
}
