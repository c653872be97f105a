//! Lua scripts that change records. Redis runs one script at a time, so a check in a script holds when the script
//! writes.

use ::redis::{Cmd, ToRedisArgs};

#[derive(Debug)]
pub(super) struct Scripts {
    pub(super) load: Script,
    pub(super) recover: Script,
    pub(super) restore: Script,
    pub(super) bind: Script,
    pub(super) set: Script,
    pub(super) touch: Script,
    pub(super) claim_stream: Script,
    pub(super) terminate: Script,
    pub(super) incarnation: Script,
    pub(super) claim: Script,
    pub(super) claim_block: Script,
    pub(super) remove: Script,
    pub(super) probe_reads: Script,
    pub(super) probe_writes: Script,
}

impl Scripts {
    /// Builds the scripts that publish with the command `publish`, and the one that creates records.
    pub(super) fn new(publish: &str) -> (Self, Script) {
        let prelude = format!(
            "local PUBLISH, SCHEMA = '{publish}', '{}'\n{}",
            crate::session::store::redis::record_hash::SCHEMA,
            include_str!("prelude.lua")
        );
        let script = |body: &str| Script::new(format!("{prelude}\n{body}"));
        let scripts = Self {
            load: script(include_str!("load.lua")),
            recover: script(include_str!("recover_from_id.lua")),
            restore: script(include_str!("restore_from_cache.lua")),
            bind: script(include_str!("bind.lua")),
            set: script(include_str!("set.lua")),
            touch: script(include_str!("touch.lua")),
            claim_stream: script(include_str!("claim_stream.lua")),
            terminate: script(include_str!("terminate.lua")),
            incarnation: script(include_str!("incarnation.lua")),
            claim: script(include_str!("claim.lua")),
            claim_block: script(include_str!("claim_block.lua")),
            remove: script(include_str!("remove.lua")),
            probe_reads: script(include_str!("probe_reads.lua")),
            probe_writes: script(include_str!("probe_writes.lua")),
        };
        (scripts, script(include_str!("create.lua")))
    }
}

/// A script, and the digest under which Redis caches it.
#[derive(Debug)]
pub(super) struct Script {
    body: String,
    digest: String,
}

/// The keys and arguments of one call of a script.
pub(super) struct ScriptCall<'a> {
    script: &'a Script,
    keys: Vec<Vec<u8>>,
    args: Vec<Vec<u8>>,
}

impl Script {
    pub(super) fn new(body: String) -> Self {
        let digest = ::redis::Script::new(&body).get_hash().to_owned();
        Self { body, digest }
    }

    /// A call with `key` as the first key.
    pub(super) fn key(&self, key: impl ToRedisArgs) -> ScriptCall<'_> {
        let mut call = self.call();
        call.key(key);
        call
    }

    /// A call with `arg` as the first argument.
    pub(super) fn arg(&self, arg: impl ToRedisArgs) -> ScriptCall<'_> {
        let mut call = self.call();
        call.arg(arg);
        call
    }

    fn call(&self) -> ScriptCall<'_> {
        ScriptCall {
            script: self,
            keys: Vec::new(),
            args: Vec::new(),
        }
    }
}

impl ScriptCall<'_> {
    /// Adds a key. In a cluster all keys of a call must be in one slot.
    pub(super) fn key(&mut self, key: impl ToRedisArgs) -> &mut Self {
        key.write_redis_args(&mut self.keys);
        self
    }

    /// Adds an argument.
    pub(super) fn arg(&mut self, arg: impl ToRedisArgs) -> &mut Self {
        arg.write_redis_args(&mut self.args);
        self
    }

    /// `EVALSHA`: works if Redis has the script cached.
    pub(super) fn by_digest(&self) -> Cmd {
        self.command("EVALSHA", &self.script.digest)
    }

    /// `EVAL`: works always, and makes Redis cache the script.
    pub(super) fn in_full(&self) -> Cmd {
        self.command("EVAL", &self.script.body)
    }

    fn command(&self, name: &str, script: &str) -> Cmd {
        let mut command = ::redis::cmd(name);
        command
            .arg(script)
            .arg(self.keys.len())
            .arg(&self.keys)
            .arg(&self.args);
        command
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    /// The Redis commands that a script uses.
    fn commands(script: &str) -> BTreeSet<&str> {
        // `redis.call` or the prelude's `call`.
        let calls = script.split("call('").skip(1);
        calls.filter_map(|rest| rest.split('\'').next()).collect()
    }

    /// A probe without some command would report the end of an outage while that command is still refused.
    #[test]
    fn probes_use_every_command_that_scripts_use() {
        let scripts = [
            include_str!("prelude.lua"),
            include_str!("create.lua"),
            include_str!("load.lua"),
            include_str!("recover_from_id.lua"),
            include_str!("restore_from_cache.lua"),
            include_str!("bind.lua"),
            include_str!("set.lua"),
            include_str!("touch.lua"),
            include_str!("claim_stream.lua"),
            include_str!("terminate.lua"),
            include_str!("incarnation.lua"),
            include_str!("claim.lua"),
            include_str!("claim_block.lua"),
            include_str!("remove.lua"),
        ];
        let used: BTreeSet<&str> = scripts.into_iter().flat_map(commands).collect();
        let reads = commands(include_str!("probe_reads.lua"));
        let probed: BTreeSet<&str> = commands(include_str!("probe_writes.lua"))
            .union(&reads)
            .copied()
            // The prelude reads the time in every script.
            .chain(["TIME"])
            .collect();
        assert_eq!(used.difference(&probed).collect::<Vec<_>>(), Vec::<&&str>::new());
        // The read probe uses exactly what a load uses: a Redis that refuses writes still serves reads.
        let loading = commands(include_str!("load.lua"))
            .into_iter()
            .chain(["GET", "HMGET", "HGETALL", "EXISTS"]);
        assert_eq!(reads, loading.collect());
    }
}
