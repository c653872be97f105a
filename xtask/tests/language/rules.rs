//! The rules of the language check, with the reason for each exception.

/// Words and phrases that comments and docs must not contain, and what to write instead.
pub(crate) const PHRASES: [(&str, &str); 17] = [
    ("whoever", "name who: the client, the caller, the operator"),
    ("whomever", "name who"),
    ("somebody", "name who: a client, another replica"),
    ("nobody", "name who does not, or use the passive"),
    ("anybody else", "name who"),
    ("everybody", "name who: all clients, all callers"),
    ("the latter", "repeat the noun"),
    ("the former", "repeat the noun"),
    ("that which", "use the noun"),
    (
        "what is no ",
        "name what it is: a malformed message, an unknown key",
    ),
    ("thereby", "start a new sentence"),
    ("whereby", "start a new sentence"),
    ("so-many", "give the number or the formula"),
    ("by whose", "name the owner"),
    ("in the place of", "instead of"),
    ("for want of", "because there is no"),
    ("none of anybody's", "name who"),
];

/// The longest allowed name of a test.
pub(crate) const MAX_TEST_NAME_LENGTH: usize = 60;

/// Folders and files in which phrases and test names are not checked, and the reason.
pub(crate) const FOLDER_EXCEPTIONS: [(&str, &str); 0] = [];

/// Phrases that a file may contain, as file, phrase and reason.
pub(crate) const PHRASE_EXCEPTIONS: [(&str, &str, &str); 0] = [];

/// Type names that a crate may have twice, as crate, name and reason.
pub(crate) const TYPE_EXCEPTIONS: [(&str, &str, &str); 0] = [];

/// File names that a crate may have twice, as crate, name and reason.
pub(crate) const FILE_EXCEPTIONS: [(&str, &str, &str); 7] = [
    (
        "gateway",
        "admission.rs",
        "of clients in frontend, of backends in backend",
    ),
    ("gateway", "aggregation.rs", "the settings and their validation"),
    (
        "gateway",
        "caller.rs",
        "the interface in core, its implementation in session",
    ),
    ("gateway", "incoming_auth.rs", "the settings and their validation"),
    (
        "gateway",
        "initialize.rs",
        "of clients in frontend, of backends in backend",
    ),
    ("gateway", "resilience.rs", "the settings and their validation"),
    ("gateway", "upstream.rs", "the settings and their validation"),
];
