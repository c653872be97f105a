//! The default identity of an operator process for leader election and Events.

use crate::error::Error;

/// Maximum number of characters of the host name: the API server accepts an identity of 128 characters in an Event.
const MAX_HOST_CHARS: usize = 100;

/// Generates an identity from the host name and a random suffix. Two processes with one identity would both believe to hold the
/// Lease.
///
/// # Errors
/// When the operating system's random number generator fails.
pub fn generate() -> Result<String, Error> {
    let mut random = [0; 4];
    getrandom::fill(&mut random).map_err(|error| Error::Randomness {
        purpose: "an identity for this operator",
        cause: error.to_string(),
    })?;
    let system = rustix::system::uname();
    let host: String = system
        .nodename()
        .to_string_lossy()
        .chars()
        .take(MAX_HOST_CHARS)
        .collect();
    Ok(format!("{host}-{:08x}", u32::from_be_bytes(random)))
}

#[cfg(test)]
mod tests {
    use super::generate;

    // Two processes on one host get different identities that begin with the host name.
    #[test]
    fn identities_on_one_host_differ() {
        let (one, other) = (generate().unwrap(), generate().unwrap());
        assert_ne!(one, other);
        let host = |name: &str| name.rsplit_once('-').map(|(host, _)| host.to_owned());
        assert!(host(&one).is_some_and(|host| !host.is_empty()), "{one}");
        assert_eq!(host(&one), host(&other));
    }
}
