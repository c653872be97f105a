//! The Redis user that docs/redis.md prints: what a gateway with the default key prefix must be allowed, and nothing else.

use anyhow::Context as _;

use super::Redis;

/// Its name, as it is printed.
pub const NAME: &str = "gateway";
/// Its password, as it is printed.
pub const PASSWORD: &str = "PASSWORD";

const DOCUMENTATION: &str = include_str!("../../../docs/redis.md");
const COMMAND: &str = "ACL SETUSER gateway on";

/// The words of the command.
///
/// # Errors
/// When the page does not print it exactly once.
pub fn command() -> anyhow::Result<Vec<&'static str>> {
    let mut found = DOCUMENTATION.match_indices(COMMAND);
    let (start, _) = found.next().context("docs/redis.md prints no user")?;
    anyhow::ensure!(found.next().is_none(), "docs/redis.md prints two users");
    let (command, _) = DOCUMENTATION[start..]
        .split_once("```")
        .context("the command in docs/redis.md has no end")?;
    Ok(command.split_whitespace().filter(|word| *word != "\\").collect())
}

/// The same as a line of Redis's configuration file, where it outlives a restart.
///
/// # Errors
/// When the page does not print the command exactly once.
pub fn setting() -> anyhow::Result<String> {
    let command = command()?;
    let user = command.strip_prefix(&["ACL", "SETUSER"]);
    Ok(format!(
        "user {}",
        user.context("the command makes no user")?.join(" ")
    ))
}

impl Redis {
    /// Makes the documented user, with the command as it is printed.
    ///
    /// # Errors
    /// When Redis refuses it.
    pub fn add_documented_user(&self) -> anyhow::Result<()> {
        self.command(&command()?)
    }
}
