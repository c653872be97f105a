//! The protocol revisions of the legacy era, which begin with an `initialize` handshake.

use std::fmt;

/// Maximum bytes of a revision name that is read or repeated. Known names have ten bytes.
pub const MAX_REVISION_BYTES: usize = 64;

/// A legacy-era revision of the Model Context Protocol, ordered by date.
///
/// ```
/// use vmcp_gateway::mcp::revision::Revision;
///
/// assert_eq!(Revision::negotiate("2025-06-18"), Revision::V2025_06_18);
/// assert_eq!(Revision::negotiate("1999-01-01"), Revision::LATEST);
/// assert!(Revision::V2024_11_05 < Revision::LATEST);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Revision {
    /// 2024-11-05: the first revision, with the HTTP+SSE transport.
    V2024_11_05 = 1,
    /// 2025-03-26: streamable HTTP, batches.
    V2025_03_26 = 2,
    /// 2025-06-18: structured output, elicitation, the version header; no batches.
    V2025_06_18 = 3,
    /// 2025-11-25: priming events and `retry`, URL elicitation.
    V2025_11_25 = 4,
}

impl Revision {
    /// The newest legacy-era revision, offered to a client that requests an unknown one.
    pub const LATEST: Self = Self::V2025_11_25;

    /// All revisions, oldest first.
    pub const ALL: [Self; 4] = [
        Self::V2024_11_05,
        Self::V2025_03_26,
        Self::V2025_06_18,
        Self::V2025_11_25,
    ];

    /// The revision with exactly this name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|revision| revision.as_str() == text)
    }

    /// The revision that a peer names. Also accepts the name of the drafts of the first revision, which the TypeScript SDK still supports.
    #[must_use]
    pub fn of_peer(text: &str) -> Option<Self> {
        const DRAFT: &str = "2024-10-07";
        Self::parse(text).or_else(|| (text == DRAFT).then_some(Self::V2024_11_05))
    }

    /// The revision with this number, as session ids encode it.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|revision| *revision as u8 == number)
    }

    /// The revision to answer a client that requests `requested` (specification, basic/lifecycle): the same if it is known, otherwise
    /// [`Self::LATEST`].
    #[must_use]
    pub fn negotiate(requested: &str) -> Self {
        Self::parse(requested).unwrap_or(Self::LATEST)
    }

    /// The revision before this one; `None` for the first.
    #[must_use]
    pub fn next_older(self) -> Option<Self> {
        Self::ALL.into_iter().rev().find(|revision| *revision < self)
    }

    /// The name on the wire, for example `2025-11-25`.
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
