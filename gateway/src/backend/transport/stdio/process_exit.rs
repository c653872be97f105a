//! How a process ended.

use std::fmt;
use std::process::ExitStatus;
use std::time::Duration;

/// The first exit code that stands for a signal.
const SIGNAL_BASE: i32 = 128;

/// How a process ended that the gateway has not stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessExit {
    /// The exit code; after a signal 128 and the signal's number. `None` if the process has closed its output and still ran.
    pub code: Option<i32>,
    /// What the gateway found wrong with its output, if anything.
    pub fault: Option<String>,
    /// How long it ran.
    pub ran_for: Duration,
    /// The last lines of its standard error.
    pub last_lines: Vec<String>,
}

impl ProcessExit {
    /// The exit code in `status`, which is the supervisor's.
    pub(super) fn code_of(status: ExitStatus) -> Option<i32> {
        status.code()
    }
}

impl fmt::Display for ProcessExit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.fault, self.code) {
            (Some(fault), _) => write!(f, "its process was stopped: {fault}")?,
            (None, Some(code)) if code > SIGNAL_BASE => {
                write!(f, "its process was ended by signal {}", code - SIGNAL_BASE)?;
            }
            (None, Some(code)) => write!(f, "its process exited with code {code}")?,
            (None, None) => f.write_str("its process closed its standard output")?,
        }
        match self.last_lines.last() {
            Some(line) => write!(f, "; its last line was {line:?}"),
            None => Ok(()),
        }
    }
}
