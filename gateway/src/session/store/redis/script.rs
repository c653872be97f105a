//! The scripts that change records. They run inside Redis, one at a time, so that what a script checks still holds when it writes.

use ::redis::Script;

/// A record as a script returns it: Redis's time in milliseconds, and the hash's fields and values.
pub(super) type Snapshot = (u64, Vec<Vec<u8>>);

#[derive(Debug)]
pub(super) struct Scripts {
    pub(super) create: Script,
    pub(super) load: Script,
    pub(super) bind: Script,
    pub(super) set: Script,
    pub(super) touch: Script,
    pub(super) terminate: Script,
}

impl Scripts {
    pub(super) fn new() -> Self {
        let script = |body: &str| Script::new(&format!("{}\n{body}", include_str!("prelude.lua")));
        Self {
            create: script(include_str!("create.lua")),
            load: script(include_str!("load.lua")),
            bind: script(include_str!("bind.lua")),
            set: script(include_str!("set.lua")),
            touch: script(include_str!("touch.lua")),
            terminate: script(include_str!("terminate.lua")),
        }
    }
}
