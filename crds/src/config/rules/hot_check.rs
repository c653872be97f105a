//! Checks the hot part of the configuration.

use std::collections::HashSet;
use std::net::Ipv6Addr;
use std::ops::RangeInclusive;

use super::super::{HotConfig, LimitsConfig, ServerInfo};
use super::{FieldError, below, check_unique_names, words};

/// Allowed values of `limits.requestBytes`.
const REQUEST_BYTES: RangeInclusive<u32> = 1024..=256 * 1024 * 1024;
/// Allowed values of the other counts. With 0, nothing would work.
const COUNT: RangeInclusive<u32> = 1..=1_000_000_000;
/// The smallest `limits.bufferedBytes`. With less, no list of a backend could be read.
pub(in crate::config) const MIN_BUFFERED_BYTES: u32 = 1024 * 1024;

impl HotConfig {
    /// Checks the rules that the types do not express.
    ///
    /// # Errors
    /// The path of the first invalid field, and why it is invalid.
    pub fn check(&self) -> Result<(), FieldError> {
        self.check_without_backends()?;
        let mut names = HashSet::new();
        for (index, backend) in self.backends.iter().enumerate() {
            let parent = format!("backends[{index}]");
            backend.check(&self.aggregation).map_err(below(&parent))?;
            if !names.insert(&backend.name) {
                let message = format!(
                    "duplicate name {:?}; the names of backends must be unique",
                    backend.name
                );
                return Err((format!("{parent}.name").into(), message));
            }
        }
        check_unique_names(&self.aggregation, &self.backends.iter().collect::<Vec<_>>())
            .map_err(|(index, error)| below(format!("backends[{index}]"))(error))
    }

    /// [`Self::check`], without the backends.
    ///
    /// # Errors
    /// The path of the first invalid field, and why it is invalid.
    pub fn check_without_backends(&self) -> Result<(), FieldError> {
        self.aggregation.check().map_err(below("aggregation"))?;
        self.server_info.check().map_err(below("serverInfo"))?;
        for (index, text) in self.allowed_hosts.iter().enumerate() {
            if host_and_optional_port(text).is_none() {
                let message = format!("found {text:?}; {}", words::HOST_EXPECTED);
                return Err((format!("allowedHosts[{index}]").into(), message));
            }
        }
        for (index, text) in self.allowed_origins.iter().enumerate() {
            if !is_origin(text) {
                let message = format!("found {text:?}; {}", words::ORIGIN_EXPECTED);
                return Err((format!("allowedOrigins[{index}]").into(), message));
            }
        }
        self.limits.check().map_err(below("limits"))
    }
}

impl ServerInfo {
    fn check(&self) -> Result<(), FieldError> {
        for (field, value) in [("name", &self.name), ("version", &self.version)] {
            if value.as_ref().is_some_and(String::is_empty) {
                return Err((field.into(), words::EMPTY_SERVER_INFO.to_owned()));
            }
        }
        Ok(())
    }
}

impl LimitsConfig {
    fn check(&self) -> Result<(), FieldError> {
        for (field, value, allowed) in [
            ("requestBytes", self.request_bytes, REQUEST_BYTES),
            ("requestsInFlight", self.requests_in_flight, COUNT),
            (
                "requestsInFlightPerSession",
                self.requests_in_flight_per_session,
                COUNT,
            ),
            ("initializesPerSecond", self.initializes_per_second, COUNT),
            (
                "initializesPerSecondPerPrincipal",
                self.initializes_per_second_per_principal.unwrap_or(1),
                COUNT,
            ),
            ("sessions", self.sessions, COUNT),
            (
                "sessionsPerPrincipal",
                self.sessions_per_principal.unwrap_or(1),
                COUNT,
            ),
        ] {
            if !allowed.contains(&value) {
                let (minimum, maximum) = allowed.into_inner();
                let message = format!("found {value}; allowed are {minimum} to {maximum}");
                return Err((field.into(), message));
            }
        }
        if let Some(bytes) = self
            .request_bytes_in_flight
            .filter(|bytes| *bytes < self.request_bytes)
        {
            let message = format!("found {bytes}; {}", words::REQUEST_BYTES_IN_FLIGHT_EXPECTED);
            return Err(("requestBytesInFlight".into(), message));
        }
        let minimum = u64::from(self.request_bytes.max(MIN_BUFFERED_BYTES));
        if let Some(bytes) = self.buffered_bytes.filter(|bytes| *bytes < minimum) {
            let message = format!("found {bytes}; {}", words::BUFFERED_BYTES_EXPECTED);
            return Err(("bufferedBytes".into(), message));
        }
        Ok(())
    }
}

/// Parses `host` or `host:port`. The host is in lower case, without a dot at the end; an IPv6 address is in its shortest form and without
/// brackets.
#[must_use]
pub fn host_and_optional_port(text: &str) -> Option<(String, Option<u16>)> {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, rest)) => (address.parse::<Ipv6Addr>().ok()?.to_string(), rest),
        None => {
            let end = text.find(':').unwrap_or(text.len());
            let name = text.get(..end)?;
            let name = name.strip_suffix('.').unwrap_or(name);
            let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
            if name.is_empty() || !name.bytes().all(allowed) {
                return None;
            }
            (name.to_ascii_lowercase(), text.get(end..)?)
        }
    };
    let port = match port.strip_prefix(':') {
        None if port.is_empty() => None,
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            Some(digits.parse().ok().filter(|port| *port > 0)?)
        }
        _ => return None,
    };
    Some((host, port))
}

/// Whether `text` is the origin of a page (RFC 6454), of an app or extension, or `null`.
#[must_use]
pub fn is_origin(text: &str) -> bool {
    if text == "null" {
        return true;
    }
    let Some((scheme, authority)) = text.split_once("://") else {
        return false;
    };
    match scheme {
        "http" | "https" => host_and_optional_port(authority).is_some(),
        _ => is_program_origin(scheme, authority),
    }
}

/// Whether this is the scheme and the id of an app or extension, as in `app://obsidian.md`.
#[must_use]
pub fn is_program_origin(scheme: &str, id: &str) -> bool {
    let is_scheme = scheme.starts_with(|first: char| first.is_ascii_lowercase())
        && scheme.bytes().all(|byte| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'+' | b'-' | b'.')
        });
    let is_id_byte = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b':');
    is_scheme && id.bytes().all(is_id_byte)
}
