//! The scripts that change records. They run inside Redis, one at a time, so that what a script checks still holds when it writes.

use ::redis::{Cmd, ToRedisArgs};

/// A record as a script returns it: Redis's time in milliseconds, and the hash's fields and values.
pub(super) type Snapshot = (u64, Vec<Vec<u8>>);

#[derive(Debug)]
pub(super) struct Scripts {
    pub(super) load: Script,
    pub(super) recover: Script,
    pub(super) restore: Script,
    pub(super) bind: Script,
    pub(super) set: Script,
    pub(super) touch: Script,
    pub(super) own_stream: Script,
    pub(super) terminate: Script,
    pub(super) incarnation: Script,
    pub(super) claim: Script,
    pub(super) remove: Script,
}

impl Scripts {
    /// Scripts that tell what they do with the command `publish`, and the one that creates records.
    pub(super) fn new(publish: &str) -> (Self, Script) {
        let prelude = format!(
            "local PUBLISH, SCHEMA = '{publish}', '{}'\n{}",
            super::hash::SCHEMA,
            include_str!("prelude.lua")
        );
        let script = |body: &str| Script::new(format!("{prelude}\n{body}"));
        let scripts = Self {
            load: script(include_str!("load.lua")),
            recover: script(include_str!("recover.lua")),
            restore: script(include_str!("restore.lua")),
            bind: script(include_str!("bind.lua")),
            set: script(include_str!("set.lua")),
            touch: script(include_str!("touch.lua")),
            own_stream: script(include_str!("own_stream.lua")),
            terminate: script(include_str!("terminate.lua")),
            incarnation: script(include_str!("incarnation.lua")),
            claim: script(include_str!("claim.lua")),
            remove: script(include_str!("remove.lua")),
        };
        (scripts, script(include_str!("create.lua")))
    }
}

/// A script, and the digest under which Redis remembers it.
#[derive(Debug)]
pub(super) struct Script {
    body: String,
    digest: String,
}

/// A script with the keys and arguments of one call.
pub(super) struct Call<'a> {
    script: &'a Script,
    keys: Vec<Vec<u8>>,
    args: Vec<Vec<u8>>,
}

impl Script {
    pub(super) fn new(body: String) -> Self {
        let digest = ::redis::Script::new(&body).get_hash().to_owned();
        Self { body, digest }
    }

    /// A call of it with this as the first key.
    pub(super) fn key(&self, key: impl ToRedisArgs) -> Call<'_> {
        let mut call = self.call();
        call.key(key);
        call
    }

    /// A call of it with this as the first argument.
    pub(super) fn arg(&self, arg: impl ToRedisArgs) -> Call<'_> {
        let mut call = self.call();
        call.arg(arg);
        call
    }

    fn call(&self) -> Call<'_> {
        Call {
            script: self,
            keys: Vec::new(),
            args: Vec::new(),
        }
    }
}

impl Call<'_> {
    /// Adds a key. In a cluster all keys of a call are in one slot.
    pub(super) fn key(&mut self, key: impl ToRedisArgs) -> &mut Self {
        key.write_redis_args(&mut self.keys);
        self
    }

    /// Adds an argument.
    pub(super) fn arg(&mut self, arg: impl ToRedisArgs) -> &mut Self {
        arg.write_redis_args(&mut self.args);
        self
    }

    /// The call for a Redis that remembers the script.
    pub(super) fn by_digest(&self) -> Cmd {
        self.command("EVALSHA", &self.script.digest)
    }

    /// The call for any Redis, which remembers the script from then on.
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
