//! The hosts and origins that requests to the endpoint may name.

use std::net::IpAddr;

use vmcp_crds::config::rules;

/// The hosts and origins that requests to the endpoint may name, beside the ones that are always allowed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccessPolicy {
    /// Allowed values of `Host`.
    pub hosts: Vec<HostPort>,
    /// Allowed values of `Origin`.
    pub origins: Vec<Origin>,
}

/// A host with an optional port, as in `Host` and in a URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// Lower case, without a trailing dot. An IPv6 address is in its shortest form and without brackets.
    host: String,
    port: Option<u16>,
}

/// The origin of a web page (RFC 6454).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A scheme, a host and a port.
    Web {
        /// Whether the scheme is `https` rather than `http`.
        is_secure: bool,
        /// Host and port. The default port of the scheme is left out.
        at: HostPort,
    },
    /// A page of an app or a browser extension, such as `app://obsidian.md`. Compared as text.
    Program(String),
    /// The opaque origin `null`, for example of a local file or a sandboxed frame.
    Null,
}

impl HostPort {
    /// Parses `host` or `host:port`. Returns `None` for anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (host, port) = rules::host_and_optional_port(text)?;
        Some(Self { host, port })
    }

    /// Whether `text` is `localhost` or `127.0.0.1`, with or without a port. A fast check without allocation: after `false`, the host may
    /// still be loopback in another spelling, and [`Self::parse`] decides.
    #[must_use]
    pub fn is_plain_loopback(text: &str) -> bool {
        let rest = text.strip_prefix("127.0.0.1");
        match rest.or_else(|| text.strip_prefix("localhost")) {
            Some("") => true,
            Some(rest) => rest.strip_prefix(':').is_some_and(|port| {
                port.starts_with(|first: char| matches!(first, '1'..='9')) && port.parse::<u16>().is_ok()
            }),
            None => false,
        }
    }

    /// Whether the host is `localhost` or a loopback address.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        let is_address = self
            .host
            .parse()
            .is_ok_and(|address: IpAddr| address.is_loopback());
        is_address || self.host == "localhost"
    }

    /// Whether this allowed host covers `named`, which a client sent. Without a port it covers all ports. Clients omit the default port of
    /// their scheme, so an allowed port 80 or 443 also covers a host without a port.
    #[must_use]
    pub fn allows(&self, named: &Self) -> bool {
        let port_fits = match (self.port, named.port) {
            (None, _) | (Some(80 | 443), None) => true,
            (Some(allowed), named) => named == Some(allowed),
        };
        port_fits && self.host == named.host
    }
}

impl Origin {
    /// Parses `http://host:port`, `https://host:port`, `scheme://id` or `null`. Returns `None` for anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text == "null" {
            return Some(Self::Null);
        }
        let (scheme, authority) = text.split_once("://")?;
        let is_secure = match scheme {
            "http" => false,
            "https" => true,
            _ => {
                let is_program = rules::is_program_origin(scheme, authority);
                return is_program.then(|| Self::Program(text.to_owned()));
            }
        };
        let HostPort { host, port } = HostPort::parse(authority)?;
        let default = if is_secure { 443 } else { 80 };
        let port = port.filter(|port| *port != default);
        Some(Self::Web {
            is_secure,
            at: HostPort { host, port },
        })
    }

    /// The host and port of a web origin, without the default port of the scheme. `None` for other origins.
    #[must_use]
    pub fn at(&self) -> Option<&HostPort> {
        match self {
            Self::Web { at, .. } => Some(at),
            Self::Program(_) | Self::Null => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(allowed: &str, named: &str) -> bool {
        HostPort::parse(allowed)
            .unwrap()
            .allows(&HostPort::parse(named).unwrap())
    }

    #[test]
    fn host_without_port_allows_all_ports() {
        for (allowed, named) in [
            ("vmcp.tools.svc", "vmcp.tools.svc"),
            ("vmcp.tools.svc", "VMCP.tools.svc.:4483"),
            ("vmcp:4483", "vmcp:4483"),
            ("vmcp:443", "vmcp"),
            ("[FD00::0001]", "[fd00::1]:80"),
        ] {
            assert!(allows(allowed, named), "{allowed} {named}");
        }
        for (allowed, named) in [
            ("vmcp.tools.svc", "x.vmcp.tools.svc"),
            ("vmcp.tools.svc", "vmcp"),
            ("vmcp:4483", "vmcp"),
            ("vmcp:4483", "vmcp:4484"),
            ("[fd00::1]", "[fd00::2]"),
        ] {
            assert!(!allows(allowed, named), "{allowed} {named}");
        }
    }

    #[test]
    fn plain_loopback_agrees_with_the_full_parser() {
        for (text, is_plain) in [
            ("localhost", true),
            ("127.0.0.1", true),
            ("127.0.0.1:4483", true),
            ("localhost:65535", true),
            ("127.0.0.1.evil.example", false),
            ("localhost.evil.example:80", false),
            ("localhost:0", false),
            ("localhost:+1", false),
            ("localhost:99999", false),
            ("localhost:", false),
            ("127.0.0.2", false),
            ("", false),
        ] {
            assert_eq!(HostPort::is_plain_loopback(text), is_plain, "{text:?}");
            let read = HostPort::parse(text);
            assert!(
                !is_plain || read.is_some_and(|host| host.is_loopback()),
                "{text:?}"
            );
        }
    }

    #[test]
    fn malformed_hosts_and_origins_are_rejected() {
        for text in [
            "", "a b", "a:b", "a:", "a:0", "a:+1", "a:99999", "u@a", "[a]", "[::1", "[::1]x", "*", "a/b",
        ] {
            assert!(HostPort::parse(text).is_none(), "{text}");
        }
        for text in [
            "",
            "a",
            "Null",
            "http://",
            "http://a/b",
            "http://u@a",
            "*",
            "*://*",
            "app://*",
            "app://a/b",
            "://a",
            "App://a",
            "1pp://a",
        ] {
            assert!(Origin::parse(text).is_none(), "{text}");
        }
    }

    #[test]
    fn origin_of_an_app_is_text_without_host() {
        for text in [
            "app://obsidian.md",
            "chrome-extension://abcdef",
            "app://.",
            "file://",
        ] {
            assert_eq!(Origin::parse(text), Some(Origin::Program(text.to_owned())));
        }
        assert_eq!(Origin::parse("null"), Some(Origin::Null));
        assert_eq!(Origin::parse("capacitor://localhost").unwrap().at(), None);
    }

    #[test]
    fn origins_compare_by_scheme_host_and_port() {
        let origin = |text| Origin::parse(text).unwrap();
        assert_eq!(origin("https://A.example:443"), origin("https://a.example"));
        assert_ne!(origin("https://a.example"), origin("http://a.example"));
        assert_ne!(origin("https://a.example:8443"), origin("https://a.example"));
    }
}
