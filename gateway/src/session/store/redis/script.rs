//! The scripts that change records. They run inside Redis, one at a time, so that what a script checks still holds when it writes.

use ::redis::Script;

/// A record as a script returns it: Redis's time in milliseconds, and the hash's fields and values.
pub(super) type Snapshot = (u64, Vec<Vec<u8>>);

#[derive(Debug)]
pub(super) struct Scripts {
    pub(super) create: Script,
    pub(super) load: Script,
    pub(super) recover: Script,
    pub(super) restore: Script,
    pub(super) bind: Script,
    pub(super) set: Script,
    pub(super) touch: Script,
    pub(super) own_stream: Script,
    pub(super) terminate: Script,
    pub(super) incarnation: Script,
}

impl Scripts {
    /// Scripts that tell what they do with the command `publish`.
    pub(super) fn new(publish: &str) -> Self {
        let prelude = format!("local PUBLISH = '{publish}'\n{}", include_str!("prelude.lua"));
        let script = |body: &str| Script::new(&format!("{prelude}\n{body}"));
        Self {
            create: script(include_str!("create.lua")),
            load: script(include_str!("load.lua")),
            recover: script(include_str!("recover.lua")),
            restore: script(include_str!("restore.lua")),
            bind: script(include_str!("bind.lua")),
            set: script(include_str!("set.lua")),
            touch: script(include_str!("touch.lua")),
            own_stream: script(include_str!("own_stream.lua")),
            terminate: script(include_str!("terminate.lua")),
            incarnation: script(include_str!("incarnation.lua")),
        }
    }
}
