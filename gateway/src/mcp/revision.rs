//! The protocol revisions of the legacy era: those with an `initialize` handshake.

use std::fmt;

/// The longest name of a revision that is looked at, or repeated. Those that are known have ten letters.
pub const MAX_REVISION_BYTES: usize = 64;

/// A revision of the Model Context Protocol that has sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Revision {
    /// 2024-11-05, the first.
    V2024_11_05 = 1,
    /// 2025-03-26: streamable HTTP, batches.
    V2025_03_26 = 2,
    /// 2025-06-18: structured output, elicitation, the version header; no batches.
    V2025_06_18 = 3,
    /// 2025-11-25: priming events and `retry`, URL elicitation.
    V2025_11_25 = 4,
}

impl Revision {
    /// The newest revision of the legacy era; the answer to a client that asks for one we do not know.
    pub const LATEST: Self = Self::V2025_11_25;

    /// All there are, the oldest first.
    pub const ALL: [Self; 4] = [
        Self::V2024_11_05,
        Self::V2025_03_26,
        Self::V2025_06_18,
        Self::V2025_11_25,
    ];

    /// The revision of that name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|revision| revision.as_str() == text)
    }

    /// The revision that a backend speaks, or a client, which names this one. The drafts of the first revision had a name of their own, which the
    /// TypeScript SDK knows.
    #[must_use]
    pub fn of_peer(text: &str) -> Option<Self> {
        const DRAFT: &str = "2024-10-07";
        Self::parse(text).or_else(|| (text == DRAFT).then_some(Self::V2024_11_05))
    }

    /// The revision of that number, as a session id carries it.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|revision| *revision as u8 == number)
    }

    /// The revision that answers a client which asks for `requested` (specification, basic/lifecycle): the same if we speak
    /// it, otherwise our newest.
    #[must_use]
    pub fn negotiate(requested: &str) -> Self {
        Self::parse(requested).unwrap_or(Self::LATEST)
    }

    /// The one before it.
    #[must_use]
    pub fn next_older(self) -> Option<Self> {
        Self::ALL.into_iter().rev().find(|revision| *revision < self)
    }

    /// The name as it stands on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V2024_11_05 => "2024-11-05",
            Self::V2025_03_26 => "2025-03-26",
            Self::V2025_06_18 => "2025-06-18",
            Self::V2025_11_25 => "2025-11-25",
        }
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
