//! What an operator calls itself when nobody gave it a name.

use crate::error::Error;

/// The longest part of the machine's name that is taken: the API server takes 128 characters in an event.
const MAX_HOST: usize = 100;

/// The name of the machine, and a random word: two operators that share a name would both take the Lease for theirs.
///
/// # Errors
/// When the operating system gives no randomness.
pub fn unique() -> Result<String, Error> {
    let mut random = [0; 4];
    getrandom::fill(&mut random).map_err(|error| Error::Randomness {
        wanted: "a name for this operator",
        why: error.to_string(),
    })?;
    let system = rustix::system::uname();
    let host: String = system
        .nodename()
        .to_string_lossy()
        .chars()
        .take(MAX_HOST)
        .collect();
    Ok(format!("{host}-{:08x}", u32::from_be_bytes(random)))
}

#[cfg(test)]
mod tests {
    use super::unique;

    #[test]
    fn two_operators_on_one_machine_have_names_of_their_own_that_begin_with_the_machines() {
        let (one, other) = (unique().unwrap(), unique().unwrap());
        assert_ne!(one, other);
        let host = |name: &str| name.rsplit_once('-').map(|(host, _)| host.to_owned());
        assert!(host(&one).is_some_and(|host| !host.is_empty()), "{one}");
        assert_eq!(host(&one), host(&other));
    }
}
