//! What keeps a backend's troubles its own, from the raw file to the validated settings.

use std::time::Duration;

use vmcp_crds::config::BackendConfig;

use crate::config::Isolation;

const OPEN_FOR: std::ops::RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(3600);
const MAX_CALLS: u32 = 100_000;
const MAX_WAIT: Duration = Duration::from_secs(60);

/// The settings of one backend, or the field that is wrong and why.
pub(super) fn isolation(raw: &BackendConfig) -> Result<Isolation, (&'static str, String)> {
    let (breaker, concurrency) = (&raw.breaker, &raw.concurrency);
    if !OPEN_FOR.contains(&breaker.open_for.get()) {
        let message = format!("found {}; allowed is 100ms to 1h", breaker.open_for);
        return Err(("breaker.openFor", message));
    }
    if concurrency.limit == 0 || concurrency.limit > MAX_CALLS {
        let message = format!("found {}; allowed is 1 to {MAX_CALLS}", concurrency.limit);
        return Err(("concurrency.limit", message));
    }
    if concurrency.queue > MAX_CALLS {
        let message = format!("found {}; allowed is 0 to {MAX_CALLS}", concurrency.queue);
        return Err(("concurrency.queue", message));
    }
    if concurrency.wait.get() > MAX_WAIT {
        let message = format!("found {}; the most is 1m", concurrency.wait);
        return Err(("concurrency.wait", message));
    }
    Ok(Isolation {
        breaker: breaker.into(),
        concurrency: concurrency.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_meant_is_refused_with_the_field_and_what_was_found() {
        for (text, field, found) in [
            ("breaker: {openFor: 10ms}", "breaker.openFor", "10ms"),
            ("breaker: {openFor: 2h}", "breaker.openFor", "2h"),
            ("concurrency: {limit: 0}", "concurrency.limit", "found 0"),
            ("concurrency: {queue: 100001}", "concurrency.queue", "100001"),
            ("concurrency: {wait: 61s}", "concurrency.wait", "1m1s"),
        ] {
            let raw: BackendConfig =
                serde_yaml::from_str(&format!("{{name: a, url: 'http://a/mcp', {text}}}")).unwrap();
            let (at, message) = isolation(&raw).unwrap_err();
            assert!(at == field && message.contains(found), "{text}: {at}: {message}");
        }
        assert_eq!(isolation(&BackendConfig::default()), Ok(Isolation::default()));
    }
}
